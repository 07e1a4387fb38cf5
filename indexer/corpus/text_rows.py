"""Rows of a text file, JSON Lines or CSV: types, numbering, rows that cannot be read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from indexer.corpus.files import DataFile
from indexer.corpus.lines import Lines
from indexer.corpus.open_file import BATCH_BYTES, BATCH_ROWS, RowBatch, WantedTypes, check_end, damaged
from indexer.corpus.parsed import fits, to_column
from indexer.corpus.places import Place
from indexer.corpus.types import common_type
from indexer.corpus.values import Fault
from indexer.errors import BadFile, first_line

SAMPLE_BYTES = 4 << 20
"""The first lines, which show the columns and their types."""

FILES_MARKED = 256
"""Files of which a process remembers where rows begin."""

RawT = TypeVar("RawT")

Row = Mapping[str, object]


class TextRows(ABC, Generic[RawT]):
    """Rows of a text file. A row that cannot be read is malformed and costs no other row."""

    kind: str
    """Name of the format."""

    may_be_empty = False
    """Whether a file without a byte is one of the format, of no rows."""

    def __init__(self, place: Place, file: DataFile, wanted: WantedTypes) -> None:
        """Reads the first lines.

        Args:
            place: Where the file is.
            file: The file.
            wanted: Types of columns; the first lines show those of others.

        Raises:
            BadFile: The file cannot be read, or none of its first lines is of the format.
        """
        self._place = place
        self._file = file
        # Which file of which place: digests differ if it changed.
        self._marks = _marks(type(place).__name__, file)
        try:
            with closing(Lines(place, file)) as lines:
                names = self._begin(lines)
                self._marks[0] = lines.position
                sample = list(self._sample(lines))
        except (OSError, pa.ArrowException) as error:
            raise BadFile(f"{file.path}: not {self.kind} that can be read: {first_line(error)}") from None
        rows = [row for row in map(self._parse, sample) if row is not None]
        if not rows and (sample or not (names or self.may_be_empty)):
            reason = f"none of its first {len(sample)} lines is a row of it" if sample else "it is empty"
            raise BadFile(f"{file.path}: not {self.kind}: {reason}")
        names = names or [name for name in dict.fromkeys(name for row in rows for name in row) if is_text(name)]
        self._schema = pa.schema([(name, self._type_of(name, rows, wanted)) for name in names])
        # Rows may name columns that the first ones do not.
        shown = dict(zip(self._schema.names, self._schema.types, strict=True))
        self._types = {**wanted.stored, **wanted.types, **shown}

    @property
    def schema(self) -> pa.Schema:
        """Columns of the first lines, with the wanted types."""
        return self._schema

    def count_rows(self) -> int:
        """Number of rows, which takes reading the file."""
        return sum(batch.columns.num_rows for batch in self.batches([]))

    def batches(
        self, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[RowBatch]:
        """Reads a range of rows, see :meth:`indexer.corpus.open_file.OpenFile.batches`."""
        names = self._schema.names if columns is None else columns
        row = max(known for known in list(self._marks) if known <= start)
        pending: list[RawT] = []
        try:
            with closing(Lines(self._place, self._file, self._marks[row])) as lines:
                began = lines.position
                for raw in self._raw(lines):
                    row += 1
                    if row > start:
                        pending.append(raw)
                    if row == stop or len(pending) == BATCH_ROWS or lines.position - began > BATCH_BYTES:
                        self._marks[row] = began = lines.position
                        yield from self._batch(row, pending, names)
                        pending = []
                    if row == stop:
                        return
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._file.path, row, error) from None
        yield from self._batch(row, pending, names)
        check_end(self._file.path, row, stop)

    @abstractmethod
    def _begin(self, lines: Lines) -> list[str]:
        """Reads what stands before the rows; returns the names of the columns if it tells them."""

    @abstractmethod
    def _raw(self, lines: Lines) -> Iterator[RawT]:
        """Rows, not parsed; when one is given, no line after it has been read."""

    @abstractmethod
    def _parse(self, raw: RawT) -> Row | None:
        """Values of a row by column, ``None`` if it is malformed."""

    @abstractmethod
    def _infer(self, values: Sequence[object]) -> pa.DataType:
        """Type of a column that has such values."""

    def _type_of(self, name: str, rows: Sequence[Row], wanted: WantedTypes) -> pa.DataType:
        """Type of a column, by the wanted types and its values in the first rows."""
        if name in wanted.types:
            return wanted.types[name]
        values = [row.get(name) for row in rows]
        found, stored = self._infer(values), wanted.stored.get(name)
        if stored is None or common_type(stored, found) is not None:
            return found
        return stored if fits(values, stored) else found

    def _sample(self, lines: Lines) -> Iterator[RawT]:
        """The first rows."""
        for raw in self._raw(lines):
            yield raw
            if lines.position > SAMPLE_BYTES:
                return

    def _batch(self, after: int, raw: Sequence[RawT], names: Sequence[str]) -> Iterator[RowBatch]:
        """Rows that end before the row ``after``, none if there are none."""
        if not raw:
            return
        rows = [self._parse(one) for one in raw]
        faults = np.array([Fault.MALFORMED if row is None else Fault.NONE for row in rows], np.uint8)
        columns = []
        for name in names:
            type_ = self._types.get(name, pa.null())
            column, found = to_column([row and row.get(name) for row in rows], type_)
            columns.append(column)
            faults = np.maximum(faults, found)
        # A struct keeps its length without columns; a record batch of none has no rows.
        batch = pa.RecordBatch.from_arrays(columns, list(names)) if columns else _without_columns(len(rows))
        yield RowBatch(after - len(rows), batch, faults)


def _without_columns(rows: int) -> pa.RecordBatch:
    """A batch that only has a number of rows."""
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))


@lru_cache(FILES_MARKED)
def _marks(place: str, file: DataFile) -> dict[int, int]:  # noqa: ARG001  # arguments name the file
    """Where some rows of a file begin, in bytes, as found by those who read it."""
    return {}


def is_text(name: str) -> bool:
    """Whether a name is UTF-8: a byte that is not was read as half of a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
