"""What an adaptation would cost: counted on real tables, timed on this machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from indexer.adapting import plan
from indexer.adapting_settings import AdaptSettings
from indexer.errors import SettingsError
from tests.support import fakes

DOCUMENTS = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    given = fakes.settings(root, corpus={"payload": ["text"]})
    rows = [(f"d{at}", f"This is the sentence of number {at}. And here are six more words.") for at in range(DOCUMENTS)]
    fakes.write(root / "corpus" / "a.parquet", rows)
    fakes.run_here(given)
    (root / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"q{at}", "text": "which one"}) for at in range(5))
    )
    lines = ["query-id\tcorpus-id\tscore", *(f"q{at}\td{at}\t1" for at in range(5))]
    (root / "qrels.tsv").write_text("\n".join(lines))
    return root


def settings(root: Path, **sections: dict[str, Any]) -> AdaptSettings:
    given: dict[str, Any] = {
        "titles": {"query": "first_sentence", "count": 1000},
        "train": {"steps": 10, "batch": 4},
        "negatives": {"per_pair": 2},
        "split": {"test": 0.25},
        "merge": {"shares": [1.0]},
    }
    places = {"index": {"uri": str(root / "index")}, "output": {"uri": str(root / "out")}}
    return AdaptSettings(**places | given | sections)


def test_pairs_steps_and_tokens_are_counted(root: Path) -> None:
    found = plan.plan(settings(root))
    assert (found["pairs"], found["test_queries"], found["steps"]) == (30, 10, 10)
    assert found["passes"] == pytest.approx(10 * 4 / 30, abs=0.05)
    # A sentence has 8 tokens and [CLS] and [SEP] beside its number's; the rest of its document 8 and the same two.
    step = 4 * (11 + 3 * 9)
    assert found["tokens_trained"] == pytest.approx(10 * step, rel=0.1)
    assert found["least_seconds"] >= 1
    assert found["least_cost"] is None
    assert not (root / "out").exists()


def test_judged_queries_judge_and_hours_cost(root: Path) -> None:
    judged = {"queries": {"uri": str(root / "queries.jsonl")}, "judgements": {"uri": str(root / "qrels.tsv")}}
    found = plan.plan(settings(root, **judged, run={"hour_price": 36000.0}))
    assert (found["pairs"], found["test_queries"]) == (DOCUMENTS, 5)
    assert found["least_cost"] > 0
    words = plan.in_words(found)
    assert "40 pairs at most to train and validate, 5 queries to judge" in words
    assert "at run.hour_price" in words


def test_the_index_must_be_there(root: Path) -> None:
    with pytest.raises(SettingsError, match="no epoch of index 'other'"):
        plan.plan(settings(root, index={"uri": str(root / "index"), "name": "other"}))
