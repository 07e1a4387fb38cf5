"""Exact nearest rows of some of a table's own vectors, against which the recall of its index is measured.

Ranges of fragments can be searched in tasks of their own; the best of all are the table's.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from indexer import schema
from indexer.storage.tables import open_version, to_matrix

NEAREST = 10
"""Rows that are compared for each query."""


def draw(uri: str, name: str, version: int, queries: int) -> np.ndarray:
    """Vectors of rows drawn at random, float32, shape (queries, width); of small tables all."""
    dataset = open_version(uri, name, version)
    return to_matrix(dataset.sample(min(queries, dataset.count_rows()), columns=[schema.VECTOR])[schema.VECTOR])


def nearest(
    uri: str, name: str, version: int, queries: np.ndarray, fragments: Sequence[int] | None = None
) -> np.ndarray:
    """Cosines of the nearest rows in one pass. Every metric orders unit vectors alike.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        queries: float32, shape (n, width), unit vectors.
        fragments: Ids of the fragments to search; ``None`` for all.

    Returns:
        float32, shape (n, 10 or all rows), largest first.
    """
    dataset = open_version(uri, name, version)
    parts = dataset.get_fragments()
    if fragments is not None:
        wanted = set(fragments)
        parts = [part for part in parts if part.fragment_id in wanted]
    best = np.empty((len(queries), 0), np.float32)
    for batch in dataset.scanner(columns=[schema.VECTOR], fragments=parts).to_batches():
        best = merged([best, queries @ to_matrix(batch[schema.VECTOR]).T])
    return best


def merged(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The best of several parts of a table.

    Args:
        parts: Cosines of rows of each, float32, shape (queries, rows).

    Returns:
        float32, shape (queries, 10 or all rows), largest first.
    """
    return -np.sort(-np.concatenate(list(parts), axis=1), axis=1)[:, :NEAREST]
