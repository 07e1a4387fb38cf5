"""Exact search of many vectors in one pass over a table.

LanceDB reads the whole table once per query. Here every batch of rows meets all queries in one matrix product.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.errors import SettingsError, first_line
from indexer.storage.tables import open_version, to_matrix

ROWS = 4096
"""Rows of a batch: with :data:`QUERIES` queries its distances take 16 MiB."""

QUERIES = 1024
"""Queries of one pass."""


@dataclass(frozen=True)
class Found:
    """The nearest rows of one query, best first.

    Attributes:
        ids: Document ids.
        chunks: Chunks.
        distances: float32, shape (rows,): as LanceDB gives them, 1 - similarity, or the squared distance.
    """

    ids: list[str]
    chunks: list[int]
    distances: np.ndarray


def nearest(
    uri: str, name: str, version: int, queries: np.ndarray, k: int, metric: str, where: str | None
) -> Iterator[Found]:
    """The nearest rows of every query.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        queries: float32, shape (n, width).
        k: Rows per query.
        metric: ``cosine``, ``dot`` or ``l2``.
        where: SQL condition that rows must meet.

    Yields:
        For each query its rows; fewer than ``k`` only where the table has fewer.

    Raises:
        SettingsError: The condition is not valid.
    """
    dataset = open_version(uri, name, version)
    for start in range(0, len(queries), QUERIES):
        best = _Best(queries[start : start + QUERIES], k, metric)
        try:
            columns = [schema.ID, schema.CHUNK, schema.VECTOR]
            for batch in dataset.scanner(columns=columns, filter=where, batch_size=ROWS).to_batches():
                best.add(batch)
        except (ValueError, OSError) as error:
            raise SettingsError(f"the search was refused: {first_line(error)}") from None
        yield from best.found()


class _Best:
    """The nearest rows so far of some queries, and the keys of every row that was among them."""

    def __init__(self, queries: np.ndarray, k: int, metric: str) -> None:
        self._metric, self._k = metric, k
        self._queries = queries
        self._norms = np.linalg.norm(queries, axis=1)
        self._distances = np.full((len(queries), k), np.inf, np.float32)
        self._rows = np.full((len(queries), k), -1)
        self._keys: list[pa.RecordBatch] = []
        self._kept = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Takes the rows of a batch that are nearer than the farthest of the best."""
        distances = self._measured(to_matrix(batch[schema.VECTOR]))
        nearer = distances < self._distances.max(axis=1, keepdims=True)
        wanted = nearer.any(axis=0)
        rows = self._kept + np.cumsum(wanted) - 1
        self._kept += int(wanted.sum())
        self._keys.append(batch.select([schema.ID, schema.CHUNK]).filter(pa.array(wanted)))
        for query in np.flatnonzero(nearer.any(axis=1)):
            chosen = np.flatnonzero(nearer[query])
            found = np.concatenate([self._distances[query], distances[query, chosen]])
            numbers = np.concatenate([self._rows[query], rows[chosen]])
            order = np.argsort(found, kind="stable")[: self._k]
            self._distances[query], self._rows[query] = found[order], numbers[order]

    def found(self) -> Iterator[Found]:
        """The best rows of each query."""
        keys = pa.Table.from_batches(self._keys) if self._keys else None
        for rows, distances in zip(self._rows, self._distances, strict=True):
            count = int((rows >= 0).sum())
            mine = None if keys is None else keys.take(rows[:count])
            if mine is None:
                yield Found([], [], distances[:0])
            else:
                yield Found(mine[schema.ID].to_pylist(), mine[schema.CHUNK].to_pylist(), distances[:count])

    def _measured(self, vectors: np.ndarray) -> np.ndarray:
        """Distances, float32, shape (queries, rows)."""
        products = self._queries @ vectors.T
        if self._metric == "dot":
            return 1 - products
        squares = np.einsum("ij,ij->i", vectors, vectors)
        if self._metric == "l2":
            return self._norms[:, None] ** 2 + squares - 2 * products
        scale = self._norms[:, None] * np.sqrt(squares)
        return 1 - products / np.maximum(scale, np.finfo(np.float32).tiny)
