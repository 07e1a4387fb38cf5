"""The cheapest configuration that loses little, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from indexer.evaluation.configurations import Configuration
from indexer.evaluation.measures import Difference


@dataclass(frozen=True)
class Evaluated:
    """What a configuration costs and gives.

    Attributes:
        configuration: The configuration.
        quality: Mean of each measure by its name.
        difference: Of nDCG@10, from the reference.
        bytes: Of its tables and indices.
        p95: Seconds in which 95 % of single searches end; ``None`` where they were not timed.
    """

    configuration: Configuration
    quality: dict[str, float]
    difference: Difference
    bytes: int
    p95: float | None


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        chosen: The configuration.
        reason: Why, in a sentence.
        toml: The ``[index]`` keys that make it.
    """

    chosen: Evaluated
    reason: str
    toml: str


def recommend(found: Sequence[Evaluated], measure: str, max_loss: float, max_p95: float) -> Recommendation:
    """Chooses among the configurations that the ``[index]`` section alone decides: without text or reranker.

    Args:
        found: Everything that was evaluated, the reference first.
        measure: The measure that counts.
        max_loss: Share of the reference's quality that may be lost.
        max_p95: Seconds that 95 % of single searches may take.

    Returns:
        The cheapest one within the loss that is fast enough; of equally cheap ones the best. Where none is fast
        enough, the fastest within the loss.
    """
    plain = [one for one in found if not (one.configuration.text or one.configuration.reranked)]
    reference = plain[0]
    least = reference.quality[measure] * (1 - max_loss)
    within = [one for one in plain if one.quality[measure] >= least]
    fast = [one for one in within if (one.p95 or 0.0) <= max_p95]
    if fast:
        chosen = min(fast, key=lambda one: (one.bytes, -one.quality[measure]))
    else:
        chosen = min(within, key=lambda one: one.p95 or 0.0)
    in_time = f"95 % of searches in {max_p95 * 1000:.0f} ms"
    if not fast:
        choice = f"it is the fastest that loses at most {max_loss:.1%}; none of these answers {in_time}"
    elif len(fast) < len(within):
        choice = f"it is the cheapest that loses at most {max_loss:.1%} and answers {in_time}"
    else:
        choice = f"it is the cheapest that loses at most {max_loss:.1%}"
    return Recommendation(chosen, _reason(chosen, reference, measure, choice), _toml(chosen.configuration))


def _reason(chosen: Evaluated, reference: Evaluated, measure: str, choice: str) -> str:
    best, own = reference.quality[measure], chosen.quality[measure]
    if not best:
        return f"{reference.configuration.name} has {measure} 0, so that no loss can be told: look at the queries first"
    if chosen is reference:
        return f"{measure} {best:.4f} at the full width; {choice}"
    change = own / best - 1
    low, high = chosen.difference.low, chosen.difference.high
    certainty = "more than chance" if chosen.difference.is_beyond_chance else "not more than chance"
    return (
        f"{measure} {own:.4f} against {best:.4f} of {reference.configuration.name} ({change:+.1%}, {certainty}: "
        f"the difference is {low:+.4f} to {high:+.4f} with 95 % confidence) for {chosen.bytes / reference.bytes:.0%} "
        f"of the bytes; {choice}"
    )


def _toml(configuration: Configuration) -> str:
    return (
        f'[index]\nwidths = {configuration.widths}\nprecision = "{configuration.precision}"\n'
        f'vector_index = "{configuration.index}"\n'
    )
