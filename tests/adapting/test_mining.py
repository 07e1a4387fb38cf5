"""Which pairs are trained on, and with which hard negatives: on real tables, with what a search is said to find."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from indexer.adapting.mining import Miner, Searched
from indexer.adapting.pairs import Pair, trained
from indexer.adapting.sources import Texts
from indexer.adapting_settings import AdaptSettings
from indexer.search.published import Published, open_published
from tests.support import fakes

NAMES = [f"d{at}" for at in range(12)]

COPY = "d9"
"""A document with the text of d0."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Documents d0 to d11, whose vectors are random ones of their texts."""
    root = tmp_path_factory.mktemp("mining")
    given = fakes.settings(root, corpus={"payload": ["text"]})
    texts = {name: f"this is the text of number {at}" for at, name in enumerate(NAMES)}
    texts[COPY] = texts["d0"].upper().replace(" ", "  ")
    fakes.write(root / "corpus" / "a.parquet", [*texts.items()])
    fakes.run_here(given)
    return open_published(str(root / "index"), "docs")


def settings(**sections: dict[str, Any]) -> AdaptSettings:
    given: dict[str, Any] = {"filter": {}, "negatives": {"above_rank": 0, "per_pair": 3}} | sections
    return AdaptSettings(index={"uri": "x"}, output={"uri": "x"}, titles={}, **given)


def miner(published: Published, score: Any = None, **sections: dict[str, Any]) -> Miner:
    return Miner(settings(**sections), Texts(published, None), score)


def pair(name: str = "d0", **given: Any) -> Pair:
    return Pair(f"q {name}", f"where is {name}", name, f"this is the text of number {name[1:]}", "titles", **given)


def searched(pairs: list[Pair], hits: dict[str, float], cosine: float = 0.8) -> Searched:
    """Queries with a cosine to their documents, and the same hits for all of them."""
    chosen = trained(pairs)
    documents = np.eye(384, dtype=np.float32)[[0] * len(chosen)]
    other = np.eye(384, dtype=np.float32)[[1] * len(chosen)]
    return Searched(chosen, cosine * documents + np.sqrt(1 - cosine**2) * other, documents, [hits for _ in chosen])


def test_negatives_are_below_the_margin_and_behind_the_best(published: Published) -> None:
    hits = {"d1": 0.9, "d0": 0.85, "d2": 0.79, "d3": 0.7, "d4": 0.6, "d5": 0.5}
    found = searched([pair()], hits)
    (mined,), counts = miner(published).mine([pair()], found)
    assert list(mined.negatives) == ["d3", "d4", "d5"], "0.79 is not below 0.95 times 0.8"
    assert mined.negatives["d3"] == "this is the text of number 3"
    assert (mined.rank, counts) == (2, {})
    assert mined.cosine == pytest.approx(0.8)
    (mined,), _ = miner(published, negatives={"above_rank": 4, "per_pair": 3}).mine([pair()], found)
    assert list(mined.negatives) == ["d5"]
    (mined,), counts = miner(published, negatives={"above_rank": 5, "per_pair": 3}).mine([pair()], found)
    assert (mined.negatives, counts) == ({}, {"pairs without a hard negative": 1})


def test_what_answers_or_judges_or_is_the_same_is_no_negative(published: Published) -> None:
    hits = {name: 0.7 - at / 100 for at, name in enumerate([COPY, "d1", "d2", "d3", "d4"])}
    given = [
        pair(),
        replace(pair("d1"), query=pair().query, query_id="other id, same query"),
        replace(pair("d2"), split="test"),
        replace(pair("d3"), split="validation"),
    ]
    found, _ = miner(published).mine(given, searched(given, hits))
    assert [list(one.negatives) for one in trained(found)] == [["d4"], ["d4"]]
    assert [one.negatives for one in found if one.split != "train"] == [{}, {}]


def test_an_equal_vector_is_no_negative(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = dict(zip(NAMES, np.eye(len(NAMES), dtype=np.float32), strict=True))
    monkeypatch.setattr(Miner, "_vectors", lambda *_: vectors | {"d1": vectors["d0"]})
    (mined,), _ = miner(published).mine([pair()], searched([pair()], {"d1": 0.5, "d2": 0.4}))
    assert list(mined.negatives) == ["d2"]


def test_judged_negatives_come_first(published: Published) -> None:
    judged = replace(pair("d7"), query=pair().query, query_id=pair().query_id, grade=0)
    found, _ = miner(published, negatives={"above_rank": 0, "per_pair": 2}).mine(
        [pair(), judged], searched([pair(), judged], {"d1": 0.5, "d2": 0.4})
    )
    assert list(found[0].negatives) == ["d7", "d1"]
    assert trained(found) == [found[0]]


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"keep_rank": 1}, "pairs whose document is below filter.keep_rank"),
        ({"least_cosine": 0.81}, "pairs below filter.least_cosine"),
        ({"least_score": 0.6}, "pairs below filter.least_score"),
    ],
)
def test_a_pair_that_falls_out_is_kept_with_its_reason(
    published: Published, bounds: dict[str, Any], reason: str
) -> None:
    def score(queries: Any, documents: Any) -> np.ndarray:  # noqa: ARG001
        return np.full(len(queries), 0.5, np.float32)

    found, counts = miner(published, score, filter=bounds).mine([pair()], searched([pair()], {"d1": 0.9, "d2": 0.4}))
    assert [one.dropped for one in found] == [reason]
    assert counts == {reason: 1}
    assert trained(found) == []


def test_a_document_that_the_reranker_finds_to_answer_is_no_negative(published: Published) -> None:
    def score(queries: Any, documents: Any) -> np.ndarray:  # noqa: ARG001
        return np.array([0.9 if text.endswith(("0", "1")) else 0.2 for text in documents], np.float32)

    (mined,), _ = miner(published, score).mine([pair()], searched([pair()], {"d1": 0.5, "d2": 0.4}))
    assert list(mined.negatives) == ["d2"]
    assert mined.score == pytest.approx(0.9)


def test_texts_are_without_control_tokens(published: Published) -> None:
    assert Texts(published, None).clean("a [SEP]b\x00 c[CLS]") == "a  b  c"
