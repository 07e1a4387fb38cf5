"""What every format gives of an open file: its columns, its number of rows, and batches of a range of rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from indexer.errors import BadFile, first_line

BATCH_ROWS = 1024
"""Cap on the rows decoded at once, so that memory follows the batch and not the file."""

BATCH_BYTES = 64 << 20
"""Approximate cap on the bytes decoded at once: large rows make smaller batches."""


@dataclass(frozen=True)
class WantedTypes:
    """Types by column, for a format without types of its own, such as JSON Lines.

    Attributes:
        types: Types to read values with.
        stored: Types to read values with if they hold those of the first rows.
    """

    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    stored: Mapping[str, pa.DataType] = field(default_factory=dict)


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a file.

    Attributes:
        first: Number of the first row.
        columns: The columns asked for.
        faults: :class:`indexer.corpus.values.Fault` of every row that the format itself cannot read, uint8, shape
            (rows,); ``None`` where a format has no such rows.
    """

    first: int
    columns: pa.RecordBatch
    faults: np.ndarray | None = None


def damaged(path: str, row: int, error: BaseException) -> BadFile:
    """The error of a file that cannot be read on from a row."""
    return BadFile(f"{path}: damaged near row {row}: {first_line(error)}")


def check_end(path: str, row: int, stop: int | None) -> None:
    """Refuses a file that ends before the row wanted last, ``None`` for its own last one."""
    if stop is not None and row < stop:
        raise BadFile(f"{path}: damaged: it ends at row {row} of {stop}")


class OpenFile(Protocol):
    """An open file of a corpus."""

    @property
    def schema(self) -> pa.Schema:
        """Every column with its type."""

    def count_rows(self) -> int:
        """Number of rows.

        Raises:
            BadFile: The file cannot be read to its end.
        """

    def batches(
        self, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[RowBatch]:
        """Reads a range of rows.

        Args:
            columns: Columns to read, all by default.
            start: First row wanted.
            stop: Row after the last one wanted, the end by default.

        Yields:
            At most 1,024 rows at a time, the first batch from ``start`` on; the last may reach over the range.

        Raises:
            BadFile: The file is damaged, or ends before ``stop``.
        """
