"""Columns of vectors: one of each row, as a fixed-size list, or several, as a list of these (multi-vectors)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.storage.tables import is_multivector, to_matrix

QueryVectors = np.ndarray | Sequence[np.ndarray]
"""Vectors of queries, float32: an array of shape (queries, width), or, for rows with several vectors, of each query one
of shape (tokens, width)."""


def counts(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int64, shape (rows,): vectors of each row."""
    if not is_multivector(column.type):
        return np.ones(len(column), np.int64)
    return pc.list_value_length(column).to_numpy().astype(np.int64)


def each(column: pa.Array | pa.ChunkedArray) -> list[np.ndarray]:
    """The vectors of each row, float32, shape (its vectors, width)."""
    return np.split(to_matrix(column), np.cumsum(counts(column))[:-1]) if len(column) else []


def grouped(vectors: pa.FixedSizeListArray, each_count: np.ndarray) -> pa.ListArray:
    """A column whose rows have several vectors each.

    Args:
        vectors: The vectors of all rows, laid end to end.
        each_count: int64, shape (rows,): vectors of each row.
    """
    offsets = np.concatenate([[0], np.cumsum(each_count)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), vectors)


def similarities(column: pa.Array | pa.ChunkedArray, query: np.ndarray) -> np.ndarray:
    """How near each row is to a query.

    Args:
        column: Unit vectors.
        query: Unit vectors: of a row with one vector float32, shape (width,), otherwise (tokens, width).

    Returns:
        float32, shape (rows,): the cosine, or MaxSim (Khattab and Zaharia 2020, arXiv:2004.12832): over the query's
        vectors, the sum of each one's largest cosine to a vector of the row.
    """
    if not is_multivector(column.type):
        return to_matrix(column) @ query
    return max_sim(query, to_matrix(column), counts(column))


def max_sim(query: np.ndarray, vectors: np.ndarray, each_count: np.ndarray) -> np.ndarray:
    """MaxSim of a query to rows, as :func:`similarities`.

    Args:
        query: float32, shape (tokens, width).
        vectors: float32, shape (vectors, width): of all rows, laid end to end.
        each_count: int64, shape (rows,): vectors of each row, at least one.
    """
    if not len(each_count):
        return np.empty(0, np.float32)
    starts = np.cumsum(each_count) - each_count
    return np.maximum.reduceat(query @ vectors.T, starts, axis=1).sum(axis=0)
