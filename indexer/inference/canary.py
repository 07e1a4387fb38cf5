"""Checks an engine's first results: refuses vectors and scores that no working model gives."""

import numpy as np

from indexer.errors import UnusableModel

NORM_TOLERANCE = 1e-3

SAME_COSINE = 1 - 1e-6

SAME_SCORE = 1e-6


def check_vectors(vectors: np.ndarray, dimension: int) -> None:
    """Refuses vectors that no working embedding model gives for different texts.

    Args:
        vectors: float32, shape (n, width), n at least 2.
        dimension: Native width of the model.

    Raises:
        UnusableModel: Wrong width, not finite, not of unit norm, or two vectors are the same.
    """
    check_unit(vectors, dimension)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    if cosines.max() > SAME_COSINE:
        raise UnusableModel(
            "the model gives the same vector for different texts; its weights were loaded wrongly; check the checkpoint"
        )


def check_unit(vectors: np.ndarray, dimension: int) -> None:
    """Refuses vectors that are not unit vectors of the model's width; arguments and errors as above."""
    if vectors.shape[1] != dimension:
        raise UnusableModel(f"the model gives vectors of width {vectors.shape[1]}, not {dimension}")
    if not np.isfinite(vectors).all():
        raise UnusableModel("the model gives vectors that are not finite")
    norms = np.linalg.norm(vectors, axis=1)
    if np.abs(norms - 1).max() > NORM_TOLERANCE:
        raise UnusableModel(f"the model gives vectors of norm {norms.min():.4f} to {norms.max():.4f}, not 1")


def check_scores(scores: np.ndarray, *, bounded: bool = True) -> None:
    """Refuses scores that no working reranker gives for different pairs.

    Args:
        scores: float32, shape (n,), n at least 2.
        bounded: Whether the model gives probabilities; some cross-encoders give logits.

    Raises:
        UnusableModel: Not finite, out of [0, 1], or all the same: 0.5 from a head that was not loaded, 0 from a wrong
            prompt.
    """
    if not np.isfinite(scores).all():
        raise UnusableModel("the model gives scores that are not finite")
    if bounded and (scores.min() < 0 or scores.max() > 1):
        raise UnusableModel(f"the model gives scores from {scores.min():.4f} to {scores.max():.4f}, not within 0 to 1")
    if np.ptp(scores) < SAME_SCORE:
        raise UnusableModel(f"the model gives every pair the score {scores[0]:.4f}; its head or the prompt is wrong")
