"""Parquet files at a URI: listing, opening, reading ranges of rows."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import glob_translate
from pyarrow import fs

from indexer.errors import BadFile, CorpusError, first_line

BATCH_ROWS = 1024
"""Most rows decoded at once, so that memory follows the batch and not the row group."""

BATCH_BYTES = 64 << 20
"""About as many bytes are decoded at once: fewer rows where the file says that they are large."""

GLOB = frozenset("*?[")

PAUSE_SECONDS = 2.0
"""Between two tries to read a file of an object store."""

ReadT = TypeVar("ReadT")


@dataclass(frozen=True)
class DataFile:
    """A Parquet file as listed.

    Attributes:
        path: Path on its filesystem.
        size: Bytes.
        mtime_ns: Modification time, nanoseconds since 1970.
    """

    path: str
    size: int
    mtime_ns: int

    @property
    def identity(self) -> str:
        """Digest of path, size and modification time: while it stays, the file is not read again."""
        return hashlib.blake2b(f"{self.path}\0{self.size}\0{self.mtime_ns}".encode(), digest_size=16).hexdigest()


def list_files(uri: str, setting: str) -> tuple[DataFile, ...]:
    """Lists the Parquet files at a URI: one file, those below a directory, or those a glob matches.

    Args:
        uri: Where they are.
        setting: Name of the setting that gave it, for errors.

    Returns:
        The files in the order of their paths.

    Raises:
        CorpusError: Nothing there, or it cannot be listed.
    """
    filesystem, path = _filesystem(uri, setting)
    try:
        files = sorted(_list(filesystem, path), key=lambda file: file.path)
    except OSError as error:
        raise CorpusError(f"{setting}: {uri} cannot be listed: {first_line(error)}") from None
    if not files:
        raise CorpusError(f"{setting}: no Parquet file at {uri}")
    return tuple(files)


def read_small_file(uri: str, setting: str, file: DataFile | None = None) -> bytes:
    """The bytes of a small file.

    Args:
        uri: Where it is, or where it was listed.
        setting: Name of the setting that gave it, for errors.
        file: One of the files listed there; by default the URI is the file's own.

    Returns:
        Its content.

    Raises:
        CorpusError: It cannot be read.
    """
    filesystem, path = _filesystem(uri, setting)
    try:
        with filesystem.open_input_file(file.path if file else path) as opened_file:
            return bytes(opened_file.read())
    except OSError as error:
        raise CorpusError(f"{setting}: {uri} cannot be read: {first_line(error)}") from None


def retry_once(uri: str, read: Callable[[], ReadT]) -> ReadT:
    """Reads once more, after a moment, what an object store did not give: a lost answer makes no bad file."""
    try:
        return read()
    except BadFile:
        if "://" not in uri:
            raise
        time.sleep(PAUSE_SECONDS)
        return read()


@contextmanager
def open_parquet(uri: str, file: DataFile) -> Iterator[pq.ParquetFile]:
    """Opens a file that is still as it was listed.

    Args:
        uri: URI it was listed at.
        file: The file.

    Yields:
        The open file.

    Raises:
        BadFile: It has changed since, changes while it is open, or is not Parquet.
    """
    try:
        filesystem, _ = _filesystem(uri, file.path)
    except CorpusError as error:
        raise BadFile(str(error)) from None
    _check_same(filesystem, file)
    try:
        parquet = pq.ParquetFile(filesystem.open_input_file(file.path), arrow_extensions_enabled=False)
        _ = parquet.schema_arrow.names  # decoded when it is asked for
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadFile(f"{file.path}: not a Parquet file that can be read: {first_line(error)}") from None
    with parquet:
        _check_counts(parquet.metadata, file)
        yield parquet
    _check_same(filesystem, file)


def _check_same(filesystem: fs.FileSystem, file: DataFile) -> None:
    try:
        now = _described(filesystem.get_file_info(file.path))
    except OSError as error:
        raise BadFile(f"{file.path}: cannot be looked at: {first_line(error)}") from None
    if now != file:
        raise BadFile(f"{file.path}: changed since it was listed; run again")


def _check_counts(metadata: pq.FileMetaData, file: DataFile) -> None:
    """Rows are found by counting: where the counts contradict each other some would be skipped without a word."""
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
        raise BadFile(f"{file.path}: damaged: it announces {metadata.num_rows} rows, and its row groups others")


def batches(
    parquet: pq.ParquetFile,
    file: DataFile,
    columns: Sequence[str] | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Reads the row groups that hold a range of rows.

    Args:
        parquet: The open file.
        file: The file, for errors.
        columns: Columns to read, all by default.
        start: First row wanted.
        stop: Row after the last one wanted, the end by default.

    Yields:
        Number of the first row and rows, at most 1,024; the first and last batches may reach over the range.

    Raises:
        BadFile: The file is damaged.
    """
    last = parquet.metadata.num_rows if stop is None else stop
    groups, row = _groups(parquet, start, last)
    try:
        for batch in parquet.iter_batches(
            _batch_rows(parquet, groups), row_groups=groups, columns=None if columns is None else [*columns]
        ):
            if row >= last:
                return
            if row + batch.num_rows > start:
                yield row, batch
            row += batch.num_rows
        if row < last:
            raise BadFile(f"{file.path}: damaged: it ends at row {row} of {last}")
    except (OSError, pa.ArrowException) as error:
        raise BadFile(f"{file.path}: damaged near row {row}: {first_line(error)}") from None


def _batch_rows(parquet: pq.ParquetFile, groups: Sequence[int]) -> int:
    described = (parquet.metadata.row_group(group) for group in groups)
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in described), default=0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(largest, 1)))


def _groups(parquet: pq.ParquetFile, start: int, stop: int) -> tuple[list[int], int]:
    """Row groups that hold the rows, and the row number of the first group's first row."""
    groups: list[int] = []
    first = row = 0
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if row < stop and row + rows > start:
            first = first if groups else row
            groups.append(group)
        row += rows
    return groups, first


def _filesystem(uri: str, setting: str) -> tuple[fs.FileSystem, str]:
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{setting}: {first_line(error)}") from None
    return filesystem, path


def _list(filesystem: fs.FileSystem, path: str) -> Iterator[DataFile]:
    found = filesystem.get_file_info(path)
    if found.type == fs.FileType.File:
        yield _described(found)
    elif found.type == fs.FileType.Directory:
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        yield from (_described(info) for info in infos if _is_data(info, path))
    else:
        root = "/".join(takewhile(lambda part: not GLOB & set(part), path.split("/")))
        wanted = re.compile(glob_translate(path))
        infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        yield from (_described(info) for info in infos if info.is_file and wanted.match(info.path))


def _is_data(info: fs.FileInfo, root: str) -> bool:
    """Hidden files and Spark's "_temporary" kind are not data, by the convention of every Parquet reader."""
    hidden = any(part.startswith((".", "_")) for part in info.path.removeprefix(root).split("/"))
    return bool(info.is_file) and info.path.endswith(".parquet") and not hidden


def _described(info: fs.FileInfo) -> DataFile:
    return DataFile(info.path, info.size or 0, info.mtime_ns or 0)
