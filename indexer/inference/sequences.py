"""Token ids of many sequences as two flat arrays, from the tokenizer to the engine."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, overload

import numpy as np


@dataclass(frozen=True, eq=False)
class TokenSequences:
    """Sequences of token ids laid end to end.

    Converting a list of Python integers takes 90 ns a token; these are arrays from the beginning.

    Attributes:
        ids: int32, shape (tokens,): ids of all sequences, end to end.
        lengths: int32, shape (n,): ids of each sequence.
    """

    ids: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | np.ndarray]) -> Self:
        """Sequences of ids given one by one."""
        arrays = [np.asarray(row, np.int32) for row in rows]
        flat = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
        return cls(flat, np.array([len(row) for row in arrays], np.int32))

    @classmethod
    def join(cls, parts: Sequence["TokenSequences"]) -> Self:
        """Concatenates several batches in their order."""
        empty = np.empty(0, np.int32)
        ids = np.concatenate([empty, *(part.ids for part in parts)])
        return cls(ids, np.concatenate([empty, *(part.lengths for part in parts)]))

    @cached_property
    def starts(self) -> np.ndarray:
        """int64, shape (n,): place of each sequence's first id."""
        return np.cumsum(self.lengths, dtype=np.int64) - self.lengths

    @property
    def tokens(self) -> int:
        """Ids of all sequences together."""
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same ids in the same order."""
        if not isinstance(other, TokenSequences):
            return NotImplemented
        return np.array_equal(self.lengths, other.lengths) and np.array_equal(self.ids, other.ids)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The ids of each sequence."""
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, row: slice) -> Self: ...
    def __getitem__(self, row: int | slice) -> "np.ndarray | Self":
        """The ids of one sequence, or some sequences."""
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        start = self.starts[row]
        return self.ids[start : start + self.lengths[row]]

    def take(self, rows: np.ndarray | Sequence[int]) -> Self:
        """Some of the sequences: by their numbers ``rows``, in that order, or by a bool array."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        lengths = self.lengths[chosen]
        return type(self)(self.ids[places(self.starts[chosen], lengths)], lengths)

    def framed(self, before: Sequence[int], behind: Sequence[int]) -> Self:
        """Every sequence with ids added before and behind it."""
        lengths = self.lengths + np.int32(len(before) + len(behind))
        framed = type(self)(np.empty(int(lengths.sum(dtype=np.int64)), np.int32), lengths)
        framed.ids[places(framed.starts + len(before), self.lengths)] = self.ids
        for place, token in enumerate(before):
            framed.ids[framed.starts + place] = token
        for place, token in enumerate(behind, -len(behind)):
            framed.ids[framed.starts + lengths + place] = token
        return framed

    def tolist(self) -> list[list[int]]:
        """The sequences as lists, for tests and for libraries that need lists."""
        return [row.tolist() for row in self]


def places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64: every place of the runs that begin at ``starts`` and have ``lengths``."""
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum(dtype=np.int64)))
