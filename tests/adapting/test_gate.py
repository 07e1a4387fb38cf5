"""The gate: what it lets through, and what it says."""

import numpy as np
import polars as pl
import pytest

from indexer.adapting.gate import Comparison, decide
from indexer.adapting_settings import AdaptGateSettings
from indexer.evaluation.measures import MEASURES, NDCG

GATES = AdaptGateSettings()


def compared(gain: float, queries: int = 200, spread: float = 0.1) -> Comparison:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.7, queries)
    noise = rng.normal(0, spread, queries)
    adapted = base + gain + noise - noise.mean()
    ids = [f"q{at}" for at in range(queries)]
    frames = (pl.DataFrame({"query_id": ids, **dict.fromkeys(MEASURES, values)}) for values in (base, adapted))
    return Comparison(*frames)


def test_a_gain_beyond_chance_is_adopted() -> None:
    verdict = decide({64: compared(0.03), 32: compared(0.0)}, compared(-0.01), GATES)
    assert verdict.is_adopted
    assert "200 test queries show a gain in nDCG@10 from about 0.0" in verdict.note
    assert "too few" not in verdict.note


def test_no_gain_is_refused() -> None:
    verdict = decide({64: compared(-0.001), 32: compared(0.1)}, None, GATES)
    assert [refusal.partition(":")[0] for refusal in verdict.refusals] == ["gates.least_gain"]
    assert "-0.0010 (" in verdict.refusals[0]


def test_too_few_queries_are_said_with_the_gain_they_could_show() -> None:
    verdict = decide({64: compared(0.01, queries=12)}, None, GATES)
    assert not verdict.is_adopted
    assert "12 test queries show a gain in nDCG@10 from about" in verdict.note
    assert "too few for the gain that was measured" in verdict.note
    shown = float(verdict.note.split("about ")[1].split(" on")[0])
    assert decide({64: compared(shown + 0.001, queries=12)}, None, GATES).is_adopted, "as much as it says would do"


@pytest.mark.parametrize(
    ("narrow", "guard", "gate"), [(-0.006, None, "gates.max_width_loss"), (0.0, -0.021, "gates.guard_loss")]
)
def test_a_loss_elsewhere_is_refused(narrow: float, guard: float | None, gate: str) -> None:
    verdict = decide({64: compared(0.03), 32: compared(narrow)}, None if guard is None else compared(guard), GATES)
    assert [refusal.partition(":")[0] for refusal in verdict.refusals] == [gate]


def test_a_wanted_gain_counts() -> None:
    assert not decide({64: compared(0.03)}, None, AdaptGateSettings(least_gain=0.02)).is_adopted
    assert compared(0.03).means[1][NDCG] == pytest.approx(compared(0.03).means[0][NDCG] + 0.03)
