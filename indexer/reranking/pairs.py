"""Rows to score: cuts files into ranges of rows, the unit of work, and reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import types

from indexer.corpus.files import DataFile
from indexer.corpus.formats import open_file
from indexer.corpus.open_file import OpenFile
from indexer.corpus.types import normal_type
from indexer.errors import CorpusError


@dataclass(frozen=True)
class RowRange:
    """Rows ``start`` to ``stop`` of one file: the unit of work, retry and resume.

    Attributes:
        uri: URI the file was listed at.
        file: The file.
        at: Its place in the listing.
        start: First row.
        stop: Row after the last.
    """

    uri: str
    file: DataFile
    at: int
    start: int
    stop: int

    @property
    def shard_id(self) -> str:
        """Name that sorts like the rows."""
        return f"{self.at:05d}-{self.start:012d}"

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    def halves(self) -> tuple["RowRange", ...]:
        """Empty: a range is never halved, since its results are one file in the order of the rows."""
        return ()


def require(uri: str, file: DataFile, columns: Sequence[str], added: Sequence[str] = ()) -> None:
    """Refuses a file that lacks a column, has one that is no text, or already has one that the results add.

    Raises:
        CorpusError: Names the file and the column.
    """
    with open_file(uri, file) as opened:
        held = opened.schema
    names = held.names
    for name in columns:
        if names.count(name) != 1:
            raise CorpusError(f"{file.path}: column {name!r} is missing (or occurs twice); it has: {', '.join(names)}")
        if not _is_text(held.field(name).type):
            raise CorpusError(f"{file.path}: column {name!r} is {held.field(name).type}, and not text or numbers")
    for name in added:
        if name in names:
            raise CorpusError(f"{file.path}: column {name!r} has the name of a column of the results")


def cut(uri: str, file: DataFile, at: int, most: int, together: Sequence[str] = ()) -> list[RowRange]:
    """Cuts a file into ranges of about ``most`` rows.

    Args:
        uri: URI the file was listed at.
        file: The file.
        at: Its place in the listing.
        most: Rows per range.
        together: Neighbouring rows with equal values in these columns stay in one range of up to twice ``most``. So
            pairs of one query, whose prompts begin alike, share the cache.

    Returns:
        The ranges, in order.

    Raises:
        CorpusError: The file cannot be read.
    """
    with open_file(uri, file) as opened:
        rows = opened.count_rows()
        starts = _changes(opened, together) if together else np.arange(rows)
    bounds = [0]
    while bounds[-1] < rows:
        later = starts[np.searchsorted(starts, bounds[-1] + most) :]
        bounds.append(int(min(later[0] if later.size else rows, bounds[-1] + 2 * most)))
    return [RowRange(uri, file, at, start, stop) for start, stop in pairwise(bounds)]


def read(rows: RowRange, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of a range of rows, all by default.

    Raises:
        CorpusError: The file changed or is damaged.
    """
    with open_file(rows.uri, rows.file) as opened:
        found = [
            batch.columns.slice(0, rows.stop - batch.first) for batch in opened.batches(columns, rows.start, rows.stop)
        ]
        return pa.Table.from_batches(found, opened.schema if not found else found[0].schema)


def strings(table: pa.Table, column: str) -> list[str | None]:
    """Values of a column as text; ``None`` for nulls and for bytes that are not UTF-8."""
    values = table[column].cast(normal_type(table[column].type))
    is_text = types.is_string(values.type) or types.is_binary(values.type)
    stored = values if is_text else values.cast(pa.string())
    return [_decoded(value) for value in stored.cast(pa.binary()).to_pylist()]


def _is_text(type_: pa.DataType) -> bool:
    """Whether values of a type are texts, or become texts in one way only."""
    stored = normal_type(type_)
    kinds = (types.is_null, types.is_string, types.is_binary, types.is_primitive, types.is_decimal)
    return any(is_kind(stored) for is_kind in kinds)


def _decoded(value: bytes | None) -> str | None:
    """Bytes as text, ``None`` if they are not UTF-8."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _changes(opened: OpenFile, columns: Sequence[str]) -> np.ndarray:
    """Numbers of the rows that differ from the one before."""
    frames = (pl.DataFrame(pl.from_arrow(batch.columns)) for batch in opened.batches(columns))
    merged = np.concatenate([np.empty(0, np.uint64), *(frame.hash_rows(seed=0).to_numpy() for frame in frames)])
    return np.flatnonzero(np.diff(merged, prepend=~merged[:1]))
