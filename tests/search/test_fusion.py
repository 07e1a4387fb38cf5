"""Reciprocal rank fusion."""

import pytest

from indexer.search.fusion import fuse


def test_ranks_are_fused_as_published() -> None:
    """By hand: 1/61 + 1/62 for a, 1/62 + 1/61 for b, 1/63 for c and d."""
    found = fuse([["a", "b", "c"], ["b", "a", "d"]], (1.0, 1.0))
    assert [(item.name, item.ranks) for item in found] == [
        ("a", (1, 2)), ("b", (2, 1)), ("c", (3, None)), ("d", (None, 3)),
    ]  # fmt: skip
    assert [item.score for item in found] == pytest.approx([1 / 61 + 1 / 62] * 2 + [1 / 63] * 2)


@pytest.mark.parametrize(("weights", "first"), [((1.0, 0.0), "ab"), ((0.0, 1.0), "yx"), ((1.01, 1.0), "ay")])
def test_weights_decide_which_ranking_counts(weights: tuple[float, float], first: str) -> None:
    found = fuse([["a", "b"], ["y", "x"]], weights)
    assert "".join(item.name for item in found)[:2] == first


def test_nothing_is_fused_of_nothing() -> None:
    assert fuse([[], []], (1.0, 1.0)) == []
