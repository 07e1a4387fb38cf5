"""Reciprocal rank fusion: one ranking of several."""

from collections.abc import Sequence
from dataclasses import dataclass

RANK_CONSTANT = 60
"""From Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
methods"."""


@dataclass(frozen=True)
class Fused:
    """An item of the fused ranking.

    Attributes:
        name: The item.
        score: Sum of ``weight / (60 + rank)`` over the rankings that have it.
        ranks: Its rank in each ranking, from 1; ``None`` where a ranking lacks it.
    """

    name: str
    score: float
    ranks: tuple[int | None, ...]


def fuse(rankings: Sequence[Sequence[str]], weights: Sequence[float]) -> list[Fused]:
    """Fuses rankings.

    Args:
        rankings: Items of each ranking, best first, none of them twice.
        weights: Weight of each ranking; equal weights are the published method.

    Returns:
        Every item once, best first. Of items with equal scores those come first that the first ranking has higher.
    """
    places = [{name: rank for rank, name in enumerate(ranking, 1)} for ranking in rankings]
    fused = []
    for name in dict.fromkeys(name for ranking in rankings for name in ranking):
        ranks = tuple(found.get(name) for found in places)
        terms = (weight / (RANK_CONSTANT + rank) for weight, rank in zip(weights, ranks, strict=True) if rank)
        fused.append(Fused(name, sum(terms), ranks))
    # Sorting is stable, and the items stand in the order of the first ranking.
    return sorted(fused, key=lambda item: -item.score)
