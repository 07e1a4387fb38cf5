"""Parquet files: reading ranges of rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.corpus.files import DataFile
from indexer.corpus.instants import COARSE, FINE, STORED, InstantMarker, int96_columns
from indexer.corpus.open_file import BATCH_BYTES, BATCH_ROWS, RowBatch, WantedTypes, check_end, damaged
from indexer.corpus.pages import largest_row
from indexer.corpus.places import Place
from indexer.corpus.types import holds_dictionary
from indexer.errors import BadFile, first_line

DICTIONARY_BYTES = 256 << 20
"""Cap on the bytes decoded at once if the largest values of the dictionaries stand in every row."""

ARROW_TYPES = b"ARROW:schema"
"""Key in a footer under which Arrow notes the types that a file was written with."""


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


class ParquetRows:
    """Rows of an open Parquet file."""

    def __init__(self, parquet: OpenParquet, file: DataFile) -> None:
        """Takes the open file, and its name for errors."""
        self._parquet = parquet
        self._file = file

    @property
    def schema(self) -> pa.Schema:
        """Columns by the footer."""
        return self._parquet.schema_arrow

    def count_rows(self) -> int:
        """Number of rows by the footer."""
        return int(self._parquet.metadata.num_rows)

    def batches(
        self, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[RowBatch]:
        """Reads the row groups that hold a range of rows, see :meth:`indexer.corpus.open_file.OpenFile.batches`."""
        parquet, file = self._parquet, self._file
        last = self.count_rows() if stop is None else stop
        names = None if columns is None else [*columns]
        wanted = start
        try:
            try:
                for row, batch in _decoded(parquet, names, start, last):
                    yield RowBatch(row, batch)
                    wanted = row + batch.num_rows
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                if not any(holds_dictionary(type_) for type_ in parquet.schema_arrow.types):
                    raise
                # Arrow refuses a whole dictionary for one entry that is not UTF-8, and nested ones of several groups.
                for row, batch in _decoded(parquet.without_dictionaries(), names, wanted, last):
                    yield RowBatch(row, batch)
                    wanted = row + batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise damaged(file.path, wanted, error) from None
        check_end(file.path, wanted, last)


@contextmanager
def open_parquet(place: Place, file: DataFile, _wanted: WantedTypes) -> Iterator[ParquetRows]:
    """Opens a Parquet file.

    Args:
        place: Where it is.
        file: The file.

    Yields:
        Its rows.

    Raises:
        BadFile: It is not Parquet.
    """
    try:
        parquet = OpenParquet(place.open(file.path))
        # Names are decoded lazily, Arrow's and Parquet's own: fail here and not later.
        _ = [parquet.schema_arrow.names, *(parquet.schema.column(at).path for at in range(len(parquet.schema)))]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadFile(f"{file.path}: not a Parquet file that can be read: {first_line(error)}") from None
    with parquet:
        _check_counts(parquet.metadata, file)
        yield ParquetRows(parquet, file)


def _check_counts(metadata: pq.FileMetaData, file: DataFile) -> None:
    """Refuses contradicting row counts: rows are found by counting, so some would be skipped silently."""
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
        raise BadFile(f"{file.path}: damaged: its footer names {metadata.num_rows} rows, its row groups another number")


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
