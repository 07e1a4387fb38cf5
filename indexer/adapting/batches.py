"""Batches of pairs: no document of a batch answers two of its queries, since it would be a negative of one of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from indexer.adapting.pairs import Pair, answers, key, names, trained
from indexer.errors import CorpusError

LEAST = 2
"""Pairs of a batch: with one there is no other document."""


@dataclass
class _Batch:
    """A batch being filled."""

    rows: list[int] = field(default_factory=list)
    queries: set[str] = field(default_factory=set)
    documents: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)

    def takes(self, pair: "_Keys") -> bool:
        """Whether the pair adds no document that answers another query of the batch."""
        return not (pair.query in self.queries or pair.answers & self.documents or pair.documents & self.answers)

    def add(self, row: int, pair: "_Keys") -> None:
        self.rows.append(row)
        self.queries.add(pair.query)
        self.documents |= pair.documents
        self.answers |= pair.answers


@dataclass(frozen=True)
class _Keys:
    """A pair's query by its key, and by ids and keys its documents and all documents that answer its query."""

    query: str
    documents: frozenset[str]
    answers: frozenset[str]


def make(pairs: Sequence[Pair], size: int, steps: int, seed: int) -> list[list[int]]:
    """Chooses the pairs of every step.

    Args:
        pairs: All pairs, of which some are trained on.
        size: Pairs of a batch; the last batch of a pass that is not full is left out.
        steps: Batches.
        seed: Draws the order, another one for every pass over the pairs.

    Returns:
        Numbers of the pairs of every batch among those that are trained on; the same for the same arguments.

    Raises:
        CorpusError: No two pairs can be in one batch.
    """
    found: list[list[int]] = []
    keys = _keys(trained(pairs), answers(pairs))
    whole = min(size, len(keys))
    for number in range(steps):
        passed = [*_pass(keys, whole, np.random.default_rng([seed, number]))]
        full = [rows for rows in passed if len(rows) == whole] or [max(passed, key=len, default=[])]
        if len(full[0]) < LEAST:
            raise CorpusError(f"no two of {len(keys)} pairs can be trained on together: they share documents")
        found += full
        if len(found) >= steps:
            break
    return found[:steps]


def first_pairs(pairs: Sequence[Pair], size: int, seed: int) -> list[Pair]:
    """The pairs of the first batch; arguments as for :func:`make`."""
    chosen = trained(pairs)
    return [chosen[row] for row in make(pairs, size, 1, seed)[0]]


def _pass(keys: Sequence[_Keys], size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Batches of one pass: a pair that does not fit waits for a later batch."""
    waiting = rng.permutation(len(keys)).tolist()
    while waiting:
        batch, left = _Batch(), []
        for at, row in enumerate(waiting):
            if len(batch.rows) == size:
                left += waiting[at:]
                break
            if batch.takes(keys[row]):
                batch.add(row, keys[row])
            else:
                left.append(row)
        yield batch.rows
        waiting = left


def _keys(pairs: Sequence[Pair], known: Mapping[str, frozenset[str]]) -> list[_Keys]:
    """For each pair the keys of its query and documents, and of what else answers its query."""
    return [
        _Keys(
            key(pair.query),
            frozenset(
                [*names(pair.document_id, pair.document), *chain(*(names(*one) for one in pair.negatives.items()))]
            ),
            known[key(pair.query)],
        )
        for pair in pairs
    ]
