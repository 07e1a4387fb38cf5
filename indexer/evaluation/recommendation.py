"""The cheapest configuration that loses little, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.evaluation import measures
from indexer.evaluation.configurations import Configuration
from indexer.evaluation.measures import Difference


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What a configuration costs and gives.

    Attributes:
        configuration: The configuration.
        quality: Mean of each measure by its name.
        values: nDCG@10 of every query, float64.
        difference: Of nDCG@10, from the reference.
        bytes: Of its tables and indices.
        p95: Seconds in which 95 % of single searches end, reranking included; ``None`` where they were not timed.
    """

    configuration: Configuration
    quality: dict[str, float]
    values: np.ndarray
    difference: Difference
    bytes: int
    p95: float | None


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        chosen: The configuration.
        reason: Why, in a sentence.
        front: Names of those among which it is the cheapest that is good enough: nothing as cheap is as surely good.
    """

    chosen: Evaluated
    reason: str
    front: list[str]


def recommend(found: Sequence[Evaluated], measure: str, max_loss: float, max_p95: float) -> Recommendation:
    """Chooses a configuration by the bounds of intervals, not by means alone.

    The standard is the best configuration that is fast enough, if it is better than the reference by more than chance;
    otherwise the reference itself.

    Args:
        found: Everything that was evaluated, the reference first.
        measure: The measure that counts.
        max_loss: Share of the standard's quality that may be lost, at the lower bound of the difference's interval.
        max_p95: Seconds that 95 % of single searches may take.

    Returns:
        The cheapest one within the loss that is fast enough; of equally cheap ones the fastest. Where none is fast
        enough, the fastest within the loss.
    """
    in_time = [one for one in found if (one.p95 or 0.0) <= max_p95]
    best = max(in_time or found, key=lambda one: one.quality[measure])
    standard = best if best.difference.low > 0 else found[0]
    losses = {id(one): measures.difference(one.values, standard.values) for one in found}
    least = -max_loss * standard.quality[measure]
    within = [one for one in found if losses[id(one)].low >= least]
    fast = [one for one in within if one in in_time]
    if fast:
        chosen = min(fast, key=lambda one: (one.bytes, one.p95 or 0.0))
    else:
        chosen = min(within, key=lambda one: one.p95 or 0.0)
    answers = f"answers 95 % of searches in {max_p95 * 1000:.0f} ms"
    if not fast:
        choice = f"it is the fastest that loses at most {max_loss:.1%}; none of these {answers}"
    elif len(fast) < len(within):
        choice = f"it is the cheapest that loses at most {max_loss:.1%} and {answers}"
    else:
        choice = f"it is the cheapest that loses at most {max_loss:.1%}"
    reason = _reason(chosen, standard, losses[id(chosen)], measure)
    front = _front(in_time if fast else within, lambda one: losses[id(one)].low)
    return Recommendation(chosen, f"{reason}; {choice}", front)


def _front(found: Sequence[Evaluated], bound: Callable[[Evaluated], float]) -> list[str]:
    """The Pareto front of bytes and of the quality that is sure, smallest first."""
    front: list[Evaluated] = []
    for one in sorted(found, key=lambda one: (one.bytes, one.p95 or 0.0)):
        if not front or bound(one) > bound(front[-1]):
            front.append(one)
    return [one.configuration.name for one in front]


def _reason(chosen: Evaluated, standard: Evaluated, loss: Difference, measure: str) -> str:
    """The quality of the chosen one beside the standard's, with the interval of the difference."""
    best, own = standard.quality[measure], chosen.quality[measure]
    if not best:
        return f"{standard.configuration.name} has {measure} 0, so that no loss can be told: look at the queries first"
    if chosen is standard:
        return f"{measure} {best:.4f}, with which the others are compared"
    size = f"for {chosen.bytes / standard.bytes:.0%} of the bytes"
    if loss.low == loss.high == 0:
        return f"{measure} {own:.4f}, equal to {standard.configuration.name} on every query, {size}"
    chance = "more than chance" if loss.is_beyond_chance else "no more than chance"
    return (
        f"{measure} {own:.4f} against {best:.4f} of {standard.configuration.name} ({own / best - 1:+.1%}, {chance}: "
        f"the difference is {loss.low:+.4f} to {loss.high:+.4f} with 95 % confidence, so at most "
        f"{max(0.0, -loss.low / best):.1%} is lost) {size}"
    )
