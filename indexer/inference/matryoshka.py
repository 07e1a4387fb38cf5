"""Cuts full-width vectors to unit vectors at every Matryoshka width; pure NumPy and Arrow."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from indexer.errors import SettingsError
from indexer.job_settings import MIN_WIDTH

STORED = {"float32": np.float32, "float16": np.float16}


def check(widths: Iterable[int], dimension: int) -> None:
    """Refuses a width that the model cannot give.

    Args:
        widths: Configured widths.
        dimension: Native width of the model.

    Raises:
        SettingsError: A width is below 32 or above ``dimension``.
    """
    for width in widths:
        if not MIN_WIDTH <= width <= dimension:
            raise SettingsError(
                f"index.widths: {width} is not between {MIN_WIDTH} and the model's dimension {dimension}"
            )


def cut(vectors: np.ndarray, width: int) -> np.ndarray:
    """First ``width`` components of each row, renormalised to unit length in float32.

    Matryoshka representation learning (Kusupati et al. 2022, arXiv:2205.13147): a prefix of the vector is itself an
    embedding, but its norm is below 1 until it is renormalised.

    Args:
        vectors: float32, shape (n, dimension), rows of any positive norm.
        width: Components to keep.

    Returns:
        float32, shape (n, width). A row whose prefix has no norm stays zero, for the caller to refuse.
    """
    prefix = vectors[:, :width].astype(np.float32)
    norms = np.linalg.norm(prefix, axis=1, keepdims=True)
    return np.divide(prefix, norms, out=np.zeros_like(prefix), where=norms > 0)


def fixed_size_list(vectors: np.ndarray, precision: str) -> pa.FixedSizeListArray:
    """Arrow column of vectors, shape (n, width), cast to ``precision``; without a copy if the dtype fits."""
    flat = np.ascontiguousarray(vectors, dtype=STORED[precision]).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def columns(vectors: np.ndarray, widths: Iterable[int], precision: str) -> Mapping[int, pa.FixedSizeListArray]:
    """Vector column of every width table.

    Args:
        vectors: float32, shape (n, dimension).
        widths: Widths to cut.
        precision: ``float32`` or ``float16``.

    Returns:
        For each width an Arrow fixed-size list array of n unit vectors.
    """
    return {width: fixed_size_list(cut(vectors, width), precision) for width in widths}


def unusable_rows(vectors: np.ndarray, narrowest: int) -> np.ndarray:
    """Rows that cannot be indexed: not finite, or without norm in the narrowest prefix.

    Args:
        vectors: float32, shape (n, dimension).
        narrowest: The smallest width. A vector with a norm at this width has one at every width.

    Returns:
        int64 row numbers.
    """
    finite = np.isfinite(vectors).all(axis=1)
    norms = np.linalg.norm(np.where(finite[:, None], vectors[:, :narrowest], 0.0), axis=1)
    return np.flatnonzero(~finite | (norms == 0.0))
