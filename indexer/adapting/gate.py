"""Decides whether an adapted model is adopted, by the paired differences of the test queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from indexer.adapting_settings import AdaptGateSettings
from indexer.evaluation import measures
from indexer.evaluation.measures import MEASURES, NDCG, Difference


@dataclass(frozen=True)
class Measured:
    """A model's measures of every query.

    Attributes:
        widths: Of the test queries, by width.
        guard: Of the guard's at the widest width, where there is one.
    """

    widths: Mapping[int, pl.DataFrame]
    guard: pl.DataFrame | None = None

    def of_no_answers(self) -> "Measured":
        """The same queries, none of them answered."""
        widths = {width: _zero(frame) for width, frame in self.widths.items()}
        return Measured(widths, None if self.guard is None else _zero(self.guard))

    def compared(self, adapted: "Measured") -> "tuple[dict[int, Comparison], Comparison | None]":
        """Both models at every width, and on the guard's queries."""
        widths = {width: Comparison(frame, adapted.widths[width]) for width, frame in self.widths.items()}
        if self.guard is None or adapted.guard is None:
            return widths, None
        return widths, Comparison(self.guard, adapted.guard)


def _zero(frame: pl.DataFrame) -> pl.DataFrame:
    """Measures of queries without an answer."""
    return frame.with_columns(pl.lit(0.0).alias(name) for name in MEASURES)


@dataclass(frozen=True)
class Comparison:
    """Both models on the same queries at one width.

    Attributes:
        base: Measures of every query by the base.
        adapted: The same by the adapted model, in the same order.
    """

    base: pl.DataFrame
    adapted: pl.DataFrame

    @cached_property  # thousands of resamples
    def difference(self) -> Difference:
        """Mean gain in nDCG@10 of the adapted model, with its interval."""
        return measures.difference(self.adapted[NDCG].to_numpy(), self.base[NDCG].to_numpy())

    @property
    def means(self) -> tuple[dict[str, float], dict[str, float]]:
        """Mean of each measure: the base's and the adapted model's."""
        base, adapted = (
            {name: float(np.mean(frame[name].to_numpy())) for name in MEASURES} for frame in (self.base, self.adapted)
        )
        return base, adapted


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        refusals: Why the model is refused, empty if it is adopted.
        note: What else a reader should know.
    """

    refusals: tuple[str, ...]
    note: str

    @property
    def is_adopted(self) -> bool:
        """Whether the model is adopted."""
        return not self.refusals


def decide(
    widths: Mapping[int, Comparison], guard: Comparison | None, gates: AdaptGateSettings, unusable: str = ""
) -> Verdict:
    """Compares the differences with the gates.

    Args:
        widths: Comparisons on the test queries by width.
        guard: On the guard corpus at the widest width, where there is one.
        gates: The bounds.
        unusable: Why the adapted model computes nothing, if it does not.

    Returns:
        The verdict. Everything that refuses is named, with what was measured and what was allowed.
    """
    widest = max(widths)
    gain = widths[widest].difference
    refusals = [f"the adapted model cannot be used: {unusable}"] if unusable else []
    if not gain.low > gates.least_gain:
        refusals.append(
            f"gates.least_gain: the gain at width {widest} is {gain}, the lower end must be above "
            f"{gates.least_gain:.4f}"
        )
    for width, comparison in sorted(widths.items(), reverse=True):
        loss = -comparison.difference.mean
        if loss > gates.max_width_loss:
            refusals.append(f"gates.max_width_loss: width {width} loses {loss:.4f}, allowed {gates.max_width_loss:.4f}")
    if guard is not None and -guard.difference.mean > gates.guard_loss:
        refusals.append(
            f"gates.guard_loss: the guard corpus loses {-guard.difference.mean:.4f}, allowed {gates.guard_loss:.4f}"
        )
    return Verdict(tuple(refusals), _power(gain, len(widths[widest].base), gates.least_gain))


def _power(gain: Difference, queries: int, least: float) -> str:
    """What so many queries can show; the interval's half below the mean is the smallest gain beyond chance."""
    shown = least + gain.mean - gain.low
    few = gain.mean > least and not gain.low > least
    return f"{queries} test queries show a gain in nDCG@10 from about {shown:.4f} on" + (
        ": too few for the gain that was measured; judge more queries" if few else ""
    )
