"""Vectors of texts: one of each text, or, of a late-interaction model, one of each token."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from indexer.inference.sequences import TokenSequences, places


@dataclass(frozen=True, eq=False)
class TextVectors:
    """The vectors of some texts, laid end to end like their token ids.

    Attributes:
        flat: float32, shape (vectors, dimension): vectors of all texts.
        counts: int64, shape (texts,): vectors of each text.
    """

    flat: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, found: np.ndarray, sequences: TokenSequences, stored: np.ndarray | None = None) -> Self:
        """What an engine gave for sequences.

        Args:
            found: float32, shape (vectors, dimension): a vector of each sequence, or one of each token. The number
                tells which, since no sequence is empty.
            sequences: The sequences.
            stored: bool, shape (vectors,): the vectors to keep; all by default.

        Raises:
            ValueError: There is another number of vectors.
        """
        if len(found) not in {len(sequences), sequences.tokens}:
            raise ValueError(f"{len(found)} vectors of {len(sequences)} sequences of {sequences.tokens} tokens")
        is_one_each = len(found) == len(sequences)
        counts = np.ones(len(sequences), np.int64) if is_one_each else sequences.lengths.astype(np.int64)
        if stored is None or stored.all():
            return cls(found, counts)
        owners = np.repeat(np.arange(len(counts)), counts)
        return cls(found[stored], np.bincount(owners[stored], minlength=len(counts)))

    @cached_property
    def starts(self) -> np.ndarray:
        """int64, shape (texts,): place of each text's first vector."""
        return np.cumsum(self.counts) - self.counts

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.counts)

    def __getitem__(self, row: int) -> np.ndarray:
        """The vectors of one text, float32, shape (its vectors, dimension)."""
        return self.flat[self.starts[row] : self.starts[row] + self.counts[row]]

    def part(self, start: int, stop: int) -> Self:
        """The vectors of neighbouring texts, without a copy."""
        counts = self.counts[start:stop]
        first = int(self.counts[:start].sum())
        return type(self)(self.flat[first : first + int(counts.sum())], counts)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """int64: places of the vectors of some texts, by the texts' numbers."""
        return places(self.starts[rows], self.counts[rows])

    def take(self, rows: np.ndarray) -> Self:
        """The vectors of some texts: by their numbers, in that order, or by a bool array."""
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        return type(self)(self.flat[self.places(chosen)], self.counts[chosen])

    def owners(self, vectors: np.ndarray) -> np.ndarray:
        """Numbers of the texts that some vectors belong to, ascending, each once."""
        return np.unique(np.repeat(np.arange(len(self)), self.counts)[vectors])


NONE = TextVectors(np.empty((0, 0), np.float32), np.empty(0, np.int64))
"""Vectors of no texts."""
