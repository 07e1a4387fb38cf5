"""What is recommended, why, and the settings that make it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.commands.command import command_line, load
from indexer.evaluation.block import block
from indexer.evaluation.configurations import Configuration
from indexer.evaluation.measures import NDCG, difference
from indexer.evaluation.recommendation import Evaluated, recommend
from indexer.settings import RerankerSettings, Settings
from indexer.storage.description import TextRecord

QUERIES = 400

BASE = np.random.default_rng(0).uniform(0.2, 0.8, QUERIES)

NOISE = np.random.default_rng(1).normal(0.0, 1.0, QUERIES)


def evaluated(
    width: int, change: float, size: int, p95: float = 0.01, noise: float = 0.0, **configuration: Any
) -> Evaluated:
    """A configuration whose quality differs by so much from the reference's, with so much noise."""
    values = BASE + change + noise * (NOISE - NOISE.mean())
    quality = {NDCG: float(values.mean())}
    return Evaluated(
        Configuration(width, "float32", **configuration), quality, values, difference(values, BASE), size, p95
    )


REFERENCE = evaluated(384, 0.0, 1000)


def test_the_cheapest_within_the_loss_and_fast_enough_is_recommended() -> None:
    half, narrow = evaluated(192, -0.003, 500), evaluated(96, -0.1, 250)
    found = recommend([REFERENCE, half, narrow], NDCG, 0.01, 0.1)
    assert found.chosen is half
    assert "for 50% of the bytes" in found.reason
    assert recommend([REFERENCE, half, narrow], NDCG, 0.5, 0.1).chosen is narrow
    assert recommend([REFERENCE, half, narrow], NDCG, 0.001, 0.1).chosen is REFERENCE
    slow = [evaluated(384, 0.0, 1000, 0.9), evaluated(192, -0.002, 600, 0.5)]
    slow += [evaluated(192, -0.003, 700, 0.05, index="IVF_SQ")]
    assert recommend(slow, NDCG, 0.01, 0.1).chosen is slow[2]
    assert "it is the fastest that loses at most 1.0%; none of these" in recommend(slow, NDCG, 0.01, 0.01).reason


def test_the_bound_of_the_interval_decides_and_not_the_mean() -> None:
    """On average it loses nothing; the interval reaches far below what may be lost."""
    noisy = evaluated(96, 0.0, 100, noise=0.2)
    assert noisy.quality[NDCG] == pytest.approx(REFERENCE.quality[NDCG])
    assert recommend([REFERENCE, noisy], NDCG, 0.01, 0.1).chosen is REFERENCE
    found = recommend([REFERENCE, noisy], NDCG, 0.1, 0.1)
    assert found.chosen is noisy
    bound = -noisy.difference.low / REFERENCE.quality[NDCG]
    assert f"at most {bound:.1%} is lost" in found.reason
    assert "no more than chance" in found.reason


def test_equal_is_called_equal() -> None:
    found = recommend([REFERENCE, evaluated(192, 0.0, 500)], NDCG, 0.01, 0.1)
    assert "equal to 384 float32 exact on every query, for 50% of the bytes" in found.reason


@pytest.mark.parametrize("better", [{"mode": "hybrid"}, {"reranked": True}, {"mode": "hybrid", "reranked": True}])
def test_text_and_reranking_are_recommended_where_they_are_better_and_fast_enough(better: dict[str, Any]) -> None:
    more = evaluated(96, 0.1, 400, 0.05, noise=0.05, **better)
    assert recommend([REFERENCE, more], NDCG, 0.01, 0.1).chosen is more
    assert recommend([REFERENCE, more], NDCG, 0.01, 0.02).chosen is REFERENCE, "too slow"
    chance = evaluated(96, 0.005, 1400, 0.05, noise=0.2, **better)
    assert recommend([REFERENCE, chance], NDCG, 0.01, 0.1).chosen is REFERENCE, "better by chance and larger"


def test_of_equally_cheap_ones_the_fastest_is_taken() -> None:
    plain, reranked = evaluated(96, 0.0, 100, 0.01), evaluated(96, 0.0, 100, 0.09, reranked=True)
    assert recommend([REFERENCE, reranked, plain], NDCG, 0.01, 0.1).chosen is plain


def test_the_front_is_what_the_recommendation_chooses_from() -> None:
    found = [
        REFERENCE,
        evaluated(192, -0.003, 500),
        evaluated(96, -0.1, 250),
        evaluated(128, -0.2, 300),
        evaluated(384, 0.2, 100, 0.5, reranked=True),
        evaluated(384, 0.05, 1200, noise=0.01, mode="hybrid"),
    ]
    for loss in (0.0, 0.01, 0.1, 0.2, 0.5, 1.0):
        recommended = recommend(found, NDCG, loss, 0.1)
        assert recommended.chosen.configuration.name in recommended.front, loss
    assert found[3].configuration.name not in recommended.front, "larger and worse than another"
    assert found[4].configuration.name not in recommended.front, "too slow to be chosen"


def test_nothing_is_told_of_queries_that_nobody_answers() -> None:
    nothing = [
        Evaluated(Configuration(width, "float32"), {NDCG: 0.0}, BASE * 0, difference(BASE, BASE), width, 0.01)
        for width in (384, 96)
    ]
    assert "no loss can be told" in recommend(nothing, NDCG, 0.01, 0.1).reason


OWN = """
[corpus]
uri = "/corpus"
payload = ["title", "text"]
[model]
name = "m"
[index]
uri = "/index"
widths = [384]
precision = "float16"
filters = ["title"]
"""


def test_the_block_is_taken_as_it_is(tmp_path: Path) -> None:
    text = TextRecord(
        columns=["title", "text"], tokenizer="icu", language="German", stem=True, stop_words=False, ascii_folding=True,
        min_ngram=2, max_ngram=3,
    )  # fmt: skip
    reranker = RerankerSettings(name='a "quoted" \\ name', max_tokens=512, hf_overrides={"a b": {"x": [1, True]}})
    chosen = Configuration(96, "float32", rescored=384, mode="hybrid", reranked=True)
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "recommended.toml").write_text(block(chosen, 4, 50, text, reranker))
    flags = [f"--config={tmp_path / name}.toml" for name in ("own", "recommended")]
    settings, _ = load(Settings, command_line(""), flags)
    assert (settings.index.uri, settings.index.filters) == ("/index", ["title"]), "what it does not name stays"
    assert (settings.index.widths, settings.index.precision, settings.index.vector_index) == (
        [384, 96],
        "float32",
        "none",
    )
    assert settings.index.text_search == ["title", "text"]
    assert settings.index.text.model_dump() == text.model_dump(exclude={"columns"})
    assert settings.search.model_dump() == {"mode": "hybrid", "width": 96, "oversample": 4, "candidates": 50}
    assert settings.reranker == reranker
    plain = block(Configuration(192, "float16", index="IVF_SQ"), 4, 50, text, reranker)
    assert "text" not in plain
    assert "reranker" not in plain
    assert 'vector_index = "IVF_SQ"' in plain
