"""Exact search of many vectors in one pass over a table.

LanceDB reads the whole table once per query. Here every batch of rows meets all queries in one matrix product, or, of
rows with several vectors each, in a product for each query.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.errors import SettingsError, first_line
from indexer.storage import vector_columns
from indexer.storage.tables import READ_AHEAD, is_multivector, open_version, to_matrix
from indexer.storage.vector_columns import QueryVectors

ROWS = 4096
"""Rows of a batch: with :data:`QUERIES` queries its distances take 16 MiB."""

MULTIVECTOR_ROWS = 256
"""Rows of a batch if each has a vector of every token: 26 MB of 200 vectors each, of 128 components in float32."""

QUERIES = 1024
"""Queries of one pass."""


@dataclass(frozen=True)
class Found:
    """The nearest rows of one query, best first.

    Attributes:
        ids: Document ids.
        chunks: Chunks.
        distances: float32, shape (rows,): as LanceDB gives them, 1 - similarity, or the squared distance. The
            similarity of rows with several vectors is MaxSim.
    """

    ids: list[str]
    chunks: list[int]
    distances: np.ndarray


def nearest(
    uri: str, name: str, version: int, queries: QueryVectors, k: int, metric: str, where: str | None
) -> Iterator[Found]:
    """The nearest rows of every query.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        queries: float32, shape (n, width); of a table with several vectors in each row, an array of shape (tokens,
            width) of each query.
        k: Rows per query.
        metric: ``cosine``, ``dot`` or ``l2``; ``cosine`` of a table with several vectors in each row.
        where: SQL condition that rows must meet.

    Yields:
        For each query its rows; fewer than ``k`` only where the table has fewer.

    Raises:
        SettingsError: The condition is not valid.
    """
    dataset = open_version(uri, name, version)
    several = is_multivector(dataset.schema.field(schema.VECTOR).type)
    # Lance would read up to 2 GiB ahead, which a table of token vectors has.
    how: dict[str, Any] = {"batch_size": MULTIVECTOR_ROWS, **READ_AHEAD} if several else {"batch_size": ROWS}
    for start in range(0, len(queries), QUERIES):
        some = queries[start : start + QUERIES]
        measured = _max_sim(some) if several else _Distances(np.asarray(some), metric)
        best = _Best(measured, len(some), k)
        try:
            columns = [schema.ID, schema.CHUNK, schema.VECTOR]
            for batch in dataset.scanner(columns=columns, filter=where, **how).to_batches():
                best.add(batch)
        except (ValueError, OSError) as error:
            raise SettingsError(f"the search was refused: {first_line(error)}") from None
        yield from best.found()


class _Best:
    """The nearest rows so far of some queries, and the keys of every row that was among them."""

    def __init__(self, measured: Callable[[pa.Array], np.ndarray], queries: int, k: int) -> None:
        self._measured, self._k = measured, k
        self._distances = np.full((queries, k), np.inf, np.float32)
        self._rows = np.full((queries, k), -1)
        self._keys: list[pa.RecordBatch] = []
        self._kept = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Takes the rows of a batch that are nearer than the farthest of the best."""
        distances = self._measured(batch[schema.VECTOR])
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


class _Distances:
    """Distances of rows with one vector to some queries."""

    def __init__(self, queries: np.ndarray, metric: str) -> None:
        self._metric, self._queries = metric, queries
        self._norms = np.linalg.norm(queries, axis=1)

    def __call__(self, column: pa.Array) -> np.ndarray:
        """Distances, float32, shape (queries, rows)."""
        vectors = to_matrix(column)
        products = self._queries @ vectors.T
        if self._metric == "dot":
            return 1 - products
        squares = np.einsum("ij,ij->i", vectors, vectors)
        if self._metric == "l2":
            return self._norms[:, None] ** 2 + squares - 2 * products
        scale = self._norms[:, None] * np.sqrt(squares)
        return 1 - products / np.maximum(scale, np.finfo(np.float32).tiny)


def _max_sim(queries: QueryVectors) -> Callable[[pa.Array], np.ndarray]:
    """Gives 1 - MaxSim of rows with several vectors to some queries."""

    def distances(column: pa.Array) -> np.ndarray:
        vectors, each_count = to_matrix(column), vector_columns.counts(column)
        return 1 - np.stack([vector_columns.max_sim(query, vectors, each_count) for query in queries])

    return distances
