"""int96 timestamps of Parquet files, which hold nanoseconds of any day of five million years.

They are read as microseconds. Rows whose instants these cannot hold are marked.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from indexer.corpus.pages import is_of
from indexer.corpus.types import is_list
from indexer.corpus.values import DAY_SECONDS, FIRST_DAY, INT64_MAX, LAST_DAY

STORED, COARSE, FINE = "us", "s", "ns"
"""Units that instants are read in: the stored one, one that holds every day, and one that drops no digit."""

NANOSECONDS = 10**9


def int96_columns(parquet: pq.ParquetFile, columns: Sequence[str] | None) -> list[str]:
    """The columns with int96 timestamps at any depth.

    Args:
        parquet: The open file.
        columns: Columns to choose from, all by default.
    """
    leaves = (parquet.schema.column(at) for at in range(len(parquet.schema)))
    paths = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
    names = parquet.schema_arrow.names if columns is None else columns
    return [name for name in names if any(is_of(path, [name]) for path in paths)]


class InstantMarker:
    """Marks the rows of consecutive batches whose int96 timestamps microseconds cannot hold."""

    def __init__(
        self, coarse: Iterator[pa.RecordBatch], fine: Iterator[pa.RecordBatch], columns: Sequence[str]
    ) -> None:
        """Takes the same rows as the batches, read in other units.

        Args:
            coarse: The columns in seconds.
            fine: The columns in nanoseconds, which wrap around.
            columns: Result of :func:`int96_columns`, at least one.
        """
        self._others = (_Rows(coarse), _Rows(fine))
        self._columns = columns

    def marked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The next batch; an instant that does not fit becomes one that is out of every range.

        Args:
            batch: The rows in microseconds.
        """
        others = [rows.take(batch.num_rows) for rows in self._others]
        found = np.zeros(batch.num_rows, bool)
        for name in self._columns:
            found |= _unfit(batch[name], *(table[name].combine_chunks() for table in others))
        if not found.any():
            return batch
        at = batch.schema.get_field_index(self._columns[0])
        column = batch.column(at)
        mark = pa.array([_mark(column.type)], column.type)
        places = pa.array(np.where(found, len(column), np.arange(len(column))))
        return batch.set_column(at, batch.schema.field(at), pa.concat_arrays([column, mark]).take(places))


class _Rows:
    """Rows of consecutive batches, cut at other places."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left: pa.Table | None = None

    def take(self, rows: int) -> pa.Table:
        """The next rows."""
        while self._left is None or self._left.num_rows < rows:
            more = pa.Table.from_batches([next(self._batches)])
            self._left = more if self._left is None else pa.concat_tables([self._left, more])
        cut, self._left = self._left.slice(0, rows), self._left.slice(rows)
        return cut


def _unfit(stored: pa.Array, coarse: pa.Array, fine: pa.Array) -> np.ndarray:
    """Rows with an instant that microseconds cannot hold, bool, shape (rows,)."""
    found = np.zeros(len(stored), bool)
    if types.is_struct(stored.type):
        for parts in zip(stored.flatten(), coarse.flatten(), fine.flatten(), strict=True):
            found |= _unfit(*parts)
    elif is_list(stored.type) or types.is_fixed_size_list(stored.type):
        items = _unfit(stored.flatten(), coarse.flatten(), fine.flatten())
        np.logical_or.at(found, pc.list_parent_indices(stored).to_numpy(), items)
    elif types.is_timestamp(stored.type) and coarse.type.unit == COARSE != stored.type.unit:
        seconds, nanoseconds = (pc.fill_null(part.view(pa.int64()), 0).to_numpy() for part in (coarse, fine))
        # Nanoseconds wrap around; what they have beyond the seconds does not.
        rest = nanoseconds.view(np.uint64) - seconds.view(np.uint64) * np.uint64(NANOSECONDS)
        found = (seconds < FIRST_DAY * DAY_SECONDS) | (seconds >= (LAST_DAY + 1) * DAY_SECONDS) | (rest % 1000 != 0)
    return found


def _mark(type_: pa.DataType) -> Any:
    """A value of a column's type whose every instant is out of range."""
    if types.is_struct(type_):
        return {field.name: _mark(field.type) for field in type_}
    if types.is_fixed_size_list(type_):
        return [_mark(type_.value_type)] * type_.list_size
    if is_list(type_):
        return [_mark(type_.value_type)]
    return INT64_MAX if types.is_timestamp(type_) else None
