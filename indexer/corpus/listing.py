"""Lists the files at a URI: one rule for files, directories and globs."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import takewhile

from fsspec.utils import glob_translate

from indexer.corpus.files import DataFile
from indexer.corpus.formats import FORMATS, Format
from indexer.corpus.places import Place, place_of
from indexer.errors import CorpusError, first_line
from indexer.progress import say
from indexer.uris import shown

GLOB = frozenset("*?[")

READ_AT_ONCE = 8
"""Files whose bytes are digested at once."""

BLOCK_BYTES = 4 << 20

NAMES_SHOWN = 3
"""Skipped files that a progress line names per reason."""

LANCE_VERSION = re.compile(r"(.*?\.lance)/_versions/[^/]+\.manifest")
"""Path of what makes a directory a Lance dataset."""

HIDDEN = "hidden or temporary (. or _ before a name)"


def list_files(uri: str, setting: str, formats: Sequence[Format] = FORMATS) -> tuple[DataFile, ...]:
    """Lists the data files at a URI: one file, those below a directory, or those a glob matches.

    All files below a directory or among matches have one format: the first that is there. Files with other suffixes
    and hidden or temporary ones are left out. A progress line says how many.

    Args:
        uri: Where they are.
        setting: Name of the setting that gave it, for errors.
        formats: The formats looked for.

    Returns:
        The files in the order of their paths.

    Raises:
        CorpusError: There is no file, or the URI cannot be listed.
    """
    place, path = place_of(uri, setting)
    try:
        single = place.find(path)
        if single is not None:
            return (single,)
        files, left_out = _chosen(place, list(_matching(place, path)), formats)
    except OSError as error:
        raise CorpusError(f"{setting}: {shown(uri)} cannot be listed: {first_line(error)}") from None
    said = "; ".join(f"{len(names)} {reason}: {_some(names)}" for reason, names in sorted(left_out.items()))
    if not files:
        kinds = " or ".join(filter(None, [", ".join(one.name for one in formats[:-1]), formats[-1].name]))
        raise CorpusError(f"{setting}: no {kinds} file at {shown(uri)}{f'; left out: {said}' if said else ''}")
    if said:
        say(f"{setting}: left out at {shown(uri)}: {said}", "WARNING")
    return tuple(sorted(files, key=lambda file: file.path))


def with_contents(uri: str, files: Sequence[DataFile]) -> tuple[DataFile, ...]:
    """The files with digests of their bytes, which are all read, several files at a time.

    Args:
        uri: URI they were listed at.
        files: The files.

    Returns:
        The files in their order. One that cannot be read stays without: it is reported when its rows are read.
    """
    place, _ = place_of(uri, "corpus.uri")
    with ThreadPoolExecutor(READ_AT_ONCE) as threads:
        return tuple(threads.map(partial(_with_content, place), files))


def _with_content(place: Place, file: DataFile) -> DataFile:
    """A file with the digest of its bytes, if its place does not tell one."""
    if file.content:
        return file
    digest = hashlib.blake2b(digest_size=16)
    try:
        with place.open(file.path) as opened:
            while block := opened.read(BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return file
    return replace(file, content=digest.hexdigest())


def _some(names: list[str]) -> str:
    """The first names, for a progress line."""
    first = ", ".join(sorted(names)[:NAMES_SHOWN])
    return first if len(names) <= NAMES_SHOWN else f"{first}, ..."


def _matching(place: Place, path: str) -> Iterator[tuple[str, DataFile]]:
    """Files below a directory or matched by a glob, each with its path below the place that was searched."""
    files = _with_datasets(place.below(path))
    root = path
    if not files and GLOB & set(path):
        root = "/".join(takewhile(lambda part: not GLOB & set(part), path.split("/")))
        wanted = re.compile(glob_translate(path))
        files = [file for file in _with_datasets(place.below(root)) if wanted.match(file.path)]
    for file in files:
        yield file.path.removeprefix(root).strip("/") or file.path.rpartition("/")[2], file


def _with_datasets(files: Iterable[DataFile]) -> list[DataFile]:
    """The files, with one entry in place of all files of a Lance dataset."""
    found = list(files)
    roots = {match[1] for file in found if (match := LANCE_VERSION.match(file.path))}
    within = re.compile("|".join(f"{re.escape(root)}/" for root in sorted(roots)) or "(?!)")
    return [*(file for file in found if not within.match(file.path)), *(DataFile(root, 0, 0) for root in roots)]


def _chosen(
    place: Place, found: Sequence[tuple[str, DataFile]], formats: Sequence[Format]
) -> tuple[list[DataFile], dict[str, list[str]]]:
    """The files of the first format that is there, and the names of the others by the reason why they are no data."""
    left_out = {HIDDEN: [name for name, _ in found if _is_hidden(name)]}
    seen = [(name, file) for name, file in found if not _is_hidden(name)]
    format_ = next((one for one in formats if any(one.has(name) for name, _ in seen)), formats[0])
    other = f"without the suffix of a {format_.name} file ({', '.join(format_.suffixes)})"
    left_out[other] = [name for name, _ in seen if not format_.has(name)]
    files = [file for name, file in seen if format_.has(name)]
    if format_.split:
        files = [part for file in files for part in format_.split(place, file.path)]
    return files, {reason: names for reason, names in left_out.items() if names}


def _is_hidden(name: str) -> bool:
    """Whether a file is no data by its path below the listed place and the convention of Parquet readers."""
    # A partition's column may begin with an underscore: _year=2026/ is data.
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in name.split("/"))
