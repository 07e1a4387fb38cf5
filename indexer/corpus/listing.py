"""Lists the Parquet files at a URI: one rule for files, directories and globs."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path

from fsspec.utils import glob_translate
from pyarrow import fs

from indexer.corpus.files import DataFile, described, filesystem_of
from indexer.errors import CorpusError, first_line
from indexer.progress import say
from indexer.uris import shown

GLOB = frozenset("*?[")

SUFFIXES = (".parquet", ".parq", ".pq")
"""Suffixes of Parquet files, in upper or lower case."""

READ_AT_ONCE = 8
"""Files whose bytes are digested at once."""

BLOCK_BYTES = 4 << 20

NAMES_SHOWN = 3
"""Skipped files that a progress line names per reason."""

HIDDEN = "hidden or temporary (. or _ before a name)"

OTHER = f"without the suffix of a Parquet file ({', '.join(SUFFIXES)})"


def list_files(uri: str, setting: str) -> tuple[DataFile, ...]:
    """Lists the Parquet files at a URI: one file, those below a directory, or those a glob matches.

    Below directories and among matches, files without a Parquet suffix and hidden or temporary ones are skipped.
    A progress line says how many.

    Args:
        uri: Where they are.
        setting: Name of the setting that gave it, for errors.

    Returns:
        The files in the order of their paths.

    Raises:
        CorpusError: There is no file, or the URI cannot be listed.
    """
    filesystem, path = filesystem_of(uri, setting)
    left_out: dict[str, list[str]] = defaultdict(list)
    try:
        files = sorted(_list(filesystem, path, left_out), key=lambda file: file.path)
    except OSError as error:
        raise CorpusError(f"{setting}: {shown(uri)} cannot be listed: {first_line(error)}") from None
    said = "; ".join(f"{len(names)} {reason}: {_some(names)}" for reason, names in sorted(left_out.items()))
    if not files:
        raise CorpusError(f"{setting}: no Parquet file at {shown(uri)}{f'; left out: {said}' if said else ''}")
    if said:
        say(f"{setting}: left out at {shown(uri)}: {said}")
    return tuple(files)


def with_contents(uri: str, files: Sequence[DataFile]) -> tuple[DataFile, ...]:
    """The files with digests of their bytes, which are all read, several files at a time.

    Args:
        uri: URI they were listed at.
        files: The files.

    Returns:
        The files in their order. One that cannot be read stays without: it is reported when its rows are read.
    """
    filesystem, _ = filesystem_of(uri, "corpus.uri")
    with ThreadPoolExecutor(READ_AT_ONCE) as threads:
        return tuple(threads.map(partial(_with_content, filesystem), files))


def _with_content(filesystem: fs.FileSystem, file: DataFile) -> DataFile:
    """A file with the digest of its bytes."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with filesystem.open_input_stream(file.path) as opened:
            while block := opened.read(BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return file
    return replace(file, content=digest.hexdigest())


def _some(names: list[str]) -> str:
    """The first names, for a progress line."""
    first = ", ".join(sorted(names)[:NAMES_SHOWN])
    return first if len(names) <= NAMES_SHOWN else f"{first}, ..."


def _list(filesystem: fs.FileSystem, path: str, left_out: dict[str, list[str]]) -> Iterator[DataFile]:
    """Data files at a path; notes the names of skipped ones by reason."""
    found = filesystem.get_file_info(path)
    if found.type == fs.FileType.File:
        yield described(found)
        return
    root, wanted = path, re.compile("")
    if found.type == fs.FileType.NotFound and GLOB & set(path):
        root = "/".join(takewhile(lambda part: not GLOB & set(part), path.split("/")))
        wanted = re.compile(glob_translate(path))
    for file in _below(filesystem, root):
        if not wanted.match(file.path):
            continue
        name = file.path.removeprefix(root).strip("/")
        reason = _reason_to_leave_out(name)
        if reason is None:
            yield file
        else:
            left_out[reason].append(name)


def _below(filesystem: fs.FileSystem, root: str) -> Iterator[DataFile]:
    """Every file below a directory."""
    try:
        infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        yield from [described(info) for info in infos if info.is_file]
    except UnicodeDecodeError:
        yield from _below_local(root)


def _below_local(root: str) -> Iterator[DataFile]:
    """Like :func:`_below`, for a disk with names that are not UTF-8: their escaped paths cannot be opened."""
    for folder, _, names in os.walk(os.fsencode(root), followlinks=True):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118  # pathlib has no paths of bytes
            status = Path(os.fsdecode(path)).stat()
            yield DataFile(path.decode("utf-8", "backslashreplace"), status.st_size, status.st_mtime_ns)


def _reason_to_leave_out(name: str) -> str | None:
    """Why a file is no data, by its path below the listed place and the convention of Parquet readers."""
    parts = name.split("/")
    # A partition's column may begin with an underscore: _year=2026/ is data.
    if any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts):
        return HIDDEN
    return None if parts[-1].lower().endswith(SUFFIXES) else OTHER
