"""Parquet files: opening, reading ranges of rows."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from indexer.corpus.instants import COARSE, FINE, STORED, InstantMarker, int96_columns
from indexer.corpus.pages import largest_row
from indexer.corpus.types import holds_dictionary
from indexer.errors import BadFile, CorpusError, first_line
from indexer.uris import shown

BATCH_ROWS = 1024
"""Cap on the rows decoded at once, so that memory follows the batch and not the row group."""

BATCH_BYTES = 64 << 20
"""Approximate cap on the bytes decoded at once: large rows, by the file's footer, make smaller batches."""

DICTIONARY_BYTES = 256 << 20
"""Cap on the bytes decoded at once if the largest values of the dictionaries stand in every row."""

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""Directory of the rows whose partition column is null."""

PAUSE_SECONDS = 2.0
"""Between two tries to read a file of an object store."""

ARROW_TYPES = b"ARROW:schema"
"""Key in a footer under which Arrow notes the types that a file was written with."""

ReadT = TypeVar("ReadT")


@dataclass(frozen=True)
class DataFile:
    """A Parquet file as listed.

    Attributes:
        path: Path on its filesystem.
        size: Bytes.
        mtime_ns: Modification time, nanoseconds since 1970.
        content: Digest of the bytes, if the corpus is identified by them; otherwise empty.
    """

    path: str
    size: int
    mtime_ns: int
    content: str = ""

    @property
    def identity(self) -> str:
        """Digest of path, size and modification time, or of path and bytes; an unchanged one is not read again."""
        told = f"content {self.content}" if self.content else f"{self.mtime_ns}"
        return hashlib.blake2b(f"{self.path}\0{self.size}\0{told}".encode(), digest_size=16).hexdigest()

    @property
    def partitions(self) -> dict[str, str | None]:
        """Columns that the directories name, as Hive and Spark write them: ``lang=de/`` gives ``lang`` as ``de``."""
        pairs = (part.partition("=") for part in self.path.split("/")[:-1])
        found = {_unquoted(name): _unquoted(value) for name, sign, value in pairs if sign and name}
        return {name: None if value == NO_PARTITION else value for name, value in found.items()}


def _unquoted(text: str) -> str:
    """A name of a directory without its escapes; as it stands if they do not give UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


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
    filesystem, path = filesystem_of(uri, setting)
    try:
        with filesystem.open_input_file(file.path if file else path) as opened_file:
            return bytes(opened_file.read())
    except OSError as error:
        raise CorpusError(f"{setting}: {shown(uri)} cannot be read: {first_line(error)}") from None


def retry_once(uri: str, read: Callable[[], ReadT]) -> ReadT:
    """Retries a failed read from an object store once: a lost answer does not make a bad file."""
    try:
        return read()
    except BadFile:
        if "://" not in uri:
            raise
        time.sleep(PAUSE_SECONDS)
        return read()


class OpenParquet(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no type information
    """An open Parquet file, read as a corpus is."""

    def __init__(
        self, source: pa.NativeFile, metadata: pq.FileMetaData | None = None, int96_unit: str = STORED
    ) -> None:
        """Reads the footer.

        Args:
            source: The file.
            metadata: Its footer, where it is known.
            int96_unit: Unit of int96 timestamps.
        """
        self._opened = source
        super().__init__(
            source,
            metadata=metadata,
            arrow_extensions_enabled=False,
            # Without checksums, a flipped bit that still decompresses is read as another value.
            page_checksum_verification=True,
            # The default, nanoseconds, holds only the years 1677 to 2262; other dates would wrap around.
            coerce_int96_timestamp_unit=int96_unit,
        )

    def without_dictionaries(self) -> "OpenParquet":
        """The same file with Parquet's own types, without the Arrow types noted in the footer."""
        footer = pa.BufferOutputStream()
        self.metadata.write_metadata_file(footer)
        renamed = footer.getvalue().to_pybytes().replace(ARROW_TYPES, ARROW_TYPES.swapcase())
        return OpenParquet(self._opened, pq.read_metadata(pa.BufferReader(renamed)))

    def largest_row(self, group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> int:
        """Result of :func:`indexer.corpus.pages.largest_row` for a row group of this file."""
        return largest_row(self._opened, group, columns)

    def with_int96_in(self, unit: str) -> "OpenParquet":
        """The same file with another unit of int96 timestamps."""
        return OpenParquet(self._opened, self.metadata, unit)


@contextmanager
def open_parquet(uri: str, file: DataFile) -> Iterator[OpenParquet]:
    """Opens a file and checks that it has not changed since it was listed.

    Args:
        uri: URI it was listed at.
        file: The file.

    Yields:
        The open file.

    Raises:
        BadFile: It has changed since, changes while it is open, or is not Parquet.
    """
    try:
        filesystem, _ = filesystem_of(uri, file.path)
    except CorpusError as error:
        raise BadFile(str(error)) from None
    _check_same(filesystem, file)
    try:
        parquet = OpenParquet(filesystem.open_input_file(file.path))
        _ = parquet.schema_arrow.names  # decoded lazily: fail here and not later
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadFile(f"{file.path}: not a Parquet file that can be read: {first_line(error)}") from None
    with parquet:
        _check_counts(parquet.metadata, file)
        yield parquet
    _check_same(filesystem, file)


def _check_same(filesystem: fs.FileSystem, file: DataFile) -> None:
    """Refuses a file whose size or time differs from the listing."""
    try:
        info = filesystem.get_file_info(file.path)
    except OSError as error:
        raise BadFile(f"{file.path}: its size and time cannot be read: {first_line(error)}") from None
    if info.type == fs.FileType.NotFound:
        raise BadFile(
            f"{file.path}: is gone since it was listed, or its name is not UTF-8, which is shown as \\x..: rename it"
        )
    if replace(described(info), content=file.content) != file:
        raise BadFile(f"{file.path}: changed since it was listed; run again")


def _check_counts(metadata: pq.FileMetaData, file: DataFile) -> None:
    """Refuses contradicting row counts: rows are found by counting, so some would be skipped silently."""
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
        raise BadFile(f"{file.path}: damaged: its footer names {metadata.num_rows} rows, its row groups another number")


def batches(
    parquet: OpenParquet,
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
        Number of the first row and rows, at most 1,024; the last batch may reach over the range.

    Raises:
        BadFile: The file is damaged.
    """
    last = parquet.metadata.num_rows if stop is None else stop
    names = None if columns is None else [*columns]
    wanted = start
    try:
        try:
            for row, batch in _decoded(parquet, names, start, last):
                yield row, batch
                wanted = row + batch.num_rows
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if not any(holds_dictionary(type_) for type_ in parquet.schema_arrow.types):
                raise
            # Arrow refuses a whole dictionary for one entry that is not UTF-8, and nested ones of several row groups.
            for row, batch in _decoded(parquet.without_dictionaries(), names, wanted, last):
                yield row, batch
                wanted = row + batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise BadFile(f"{file.path}: damaged near row {wanted}: {first_line(error)}") from None
    if wanted < last:
        raise BadFile(f"{file.path}: damaged: it ends at row {wanted} of {last}")


def _decoded(
    parquet: OpenParquet, columns: list[str] | None, start: int, stop: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of the row groups that hold a range, each cut to begin inside it."""
    groups, row = _groups(parquet, start, stop)
    most = _batch_rows(parquet, groups, columns)
    found = parquet.iter_batches(most, row_groups=groups, columns=columns)
    instants = int96_columns(parquet, columns)
    if instants:
        others = (parquet.with_int96_in(unit) for unit in (COARSE, FINE))
        coarse, fine = (other.iter_batches(most, row_groups=groups, columns=instants) for other in others)
        found = map(InstantMarker(coarse, fine, instants).marked, found)
    for batch in (piece for whole in found for piece in _pieces(whole)):
        if row >= stop:
            return
        if row + batch.num_rows > start:
            cut = max(0, start - row)
            yield row + cut, batch.slice(cut)
        row += batch.num_rows


def _batch_rows(parquet: OpenParquet, groups: Sequence[int], columns: list[str] | None) -> int:
    """Rows decoded at once, fewer if the groups' rows are large."""
    described = [parquet.metadata.row_group(group) for group in groups]
    average = max((group.total_byte_size // max(group.num_rows, 1) for group in described), default=0)
    largest = max((parquet.largest_row(group, columns) for group in described), default=0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(average, 1), DICTIONARY_BYTES // max(largest, 1)))


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in parts that are not too large: work on it takes a multiple of its bytes."""
    half = batch.num_rows // 2
    if half and batch.nbytes > BATCH_BYTES:
        yield from _pieces(batch.slice(0, half))
        yield from _pieces(batch.slice(half))
    else:
        yield batch


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


def filesystem_of(uri: str, setting: str) -> tuple[fs.FileSystem, str]:
    """Filesystem of a URI and the path on it; raises :class:`CorpusError` where there is none."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        # Arrow quotes the URI, which may hold a secret.
        raise CorpusError(f"{setting}: {shown(uri)} cannot be opened ({type(error).__name__})") from None
    return filesystem, path


def described(info: fs.FileInfo) -> DataFile:
    """The file of an entry of a listing."""
    return DataFile(info.path, info.size or 0, info.mtime_ns or 0)
