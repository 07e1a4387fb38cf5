"""Matryoshka widths."""

import numpy as np
import pytest
from hypothesis import given, strategies

from indexer.errors import SettingsError
from indexer.inference import matryoshka


@given(strategies.integers(0, 2**32 - 1), strategies.integers(32, 64), strategies.floats(1e-3, 1e3))
def test_a_cut_is_the_renormalised_prefix(seed: int, width: int, scale: float) -> None:
    vectors = np.random.default_rng(seed).standard_normal((7, 64)).astype(np.float32) * np.float32(scale)
    cut = matryoshka.cut(vectors, width)
    exact = vectors[:, :width].astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(cut, exact, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_columns_hold_the_rows_in_order(precision: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    columns = matryoshka.columns(vectors, [64, 32], precision)
    for width, column in columns.items():
        stored = column.flatten().to_numpy().reshape(5, width)
        assert stored.dtype == np.dtype(precision)
        np.testing.assert_allclose(stored, matryoshka.cut(vectors, width), atol=1e-3)


def test_unusable_rows() -> None:
    vectors = np.ones((5, 64), np.float32)
    vectors[1, 50] = np.nan
    vectors[2, 3] = np.inf
    vectors[4, :32] = 0
    assert matryoshka.unusable_rows(vectors, 32).tolist() == [1, 2, 4]
    assert matryoshka.unusable_rows(vectors, 40).tolist() == [1, 2]


@pytest.mark.parametrize("width", [31, 385])
def test_impossible_widths_are_refused(width: int) -> None:
    matryoshka.check([32, 384], 384)
    with pytest.raises(SettingsError, match=f"{width} is not between 32 and the model's dimension 384"):
        matryoshka.check([width], 384)
