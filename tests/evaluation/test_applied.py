"""What an evaluation measures is what jobs.search gives, and its recommendation is applied as it is printed.

With the fake engine's vectors, which know nothing of meaning: words find, and vectors do not.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.commands import search
from indexer.commands.command import command_line, load
from indexer.evaluation import measures
from indexer.evaluation import run as evaluation_run
from indexer.evaluation.measures import NDCG
from indexer.inference.model import open_reranker
from indexer.search import published
from indexer.settings import EvaluateSettings, Settings
from indexer.testing.checkpoints import minilm_path
from indexer.testing.fakes import FakeReranker
from tests.support import fakes
from tests.support.checkpoints import cross_encoder
from tests.support.local_cluster import LocalCluster
from tests.support.readers import fake_readers

pytestmark = pytest.mark.heavy

ASKED = 20

CANDIDATES = 10

OWN = """
[corpus]
uri = "{root}/corpus"
payload = ["kind", "text"]
[model]
name = "{model}"
max_tokens = 24
overflow = "chunk"
chunk_overlap = 4
[index]
uri = "{root}/index"
widths = [384, 96]
[run]
progress = "none"
"""


@pytest.fixture(autouse=True)
def _without_engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for place in (evaluation_run, published):
        monkeypatch.setattr(place, "open_reranker", lambda *given: FakeReranker.of(open_reranker(*given)))
    with fake_readers():
        yield


def indexed(*configs: str) -> dict[str, Any]:
    settings, _ = load(Settings, command_line(""), configs)
    return fakes.run_here(settings)


def searched(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """What jobs.search prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["search", "--json", "--k=100", *arguments])
        capsys.readouterr()
        search.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def ndcg(answers: list[dict[str, Any]], queries: dict[str, str], judgements: dict[str, dict[str, int]]) -> float:
    """Mean nDCG@10 of what jobs.search printed."""
    by_text = {answer["question"]: {hit["id"]: hit["score"] for hit in answer["results"]} for answer in answers}
    run = {name: by_text[text] for name, text in queries.items()}
    return float(np.mean(measures.per_query(judgements, run)[NDCG].to_numpy()))


def judged(root: Path, rows: list[tuple[str, str]]) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Writes and returns questions and judgements.

    A question is the text of another document with one word of its own: words and vectors disagree.
    """
    names = [name for name, _ in rows]
    queries = {f"q{at}": f"{rows[at + 30][1]} document {at}" for at in range(ASKED)}
    judgements = {f"q{at}": {names[at]: 2, names[at + 30]: 1} for at in range(ASKED)}
    lines = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
    (root / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    grades = [f"{name}\t{document}\t{grade}" for name, given in judgements.items() for document, grade in given.items()]
    (root / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *grades]), encoding="utf-8")
    return queries, judgements


def test_modes_score_alike_in_evaluation_and_search_and_the_recommendation_applies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(name, f"{text} and {text[::-1]} and so on until it is long enough") for name, text in fakes.words(60)]
    fakes.write(tmp_path / "corpus" / "a.parquet", rows)
    own = tmp_path / "own.toml"
    own.write_text(OWN.format(root=tmp_path, model=minilm_path()), encoding="utf-8")
    indexed(f"--config={own}")

    queries, judgements = judged(tmp_path, rows)
    reranker = {"name": cross_encoder(tmp_path / "cross-encoder"), "max_tokens": 128}
    settings = EvaluateSettings(
        index={"uri": str(tmp_path / "index")},
        queries={"uri": str(tmp_path / "queries.jsonl")},
        judgements={"uri": str(tmp_path / "qrels.tsv")},
        compare={"precisions": ["float32"], "vector_indices": [], "candidates": CANDIDATES, "timed_queries": 2,
                 "max_p95_ms": 60_000.0},
        reranker=reranker,
        output={"uri": str(tmp_path / "out")},
    )  # fmt: skip
    cluster: Any = LocalCluster()
    summary = evaluation_run.run(settings, cluster)
    measured = {(row["mode"], row["reranked"], row["width"], row["rescored"]): row for row in summary["configurations"]}
    assert measured["text", False, 96, None][NDCG] > measured["vector", False, 384, None][NDCG]

    def check(row: dict[str, Any], answers: list[dict[str, Any]]) -> None:
        assert ndcg(answers, queries, judgements) == pytest.approx(row[NDCG], abs=6e-5), row["name"]

    # All modes, in an index that has both widths and words.
    words = tmp_path / "words.toml"
    words.write_text('[index]\nwidths = [384, 96]\ntext_search = ["text"]\n', encoding="utf-8")
    both = [f"--config={own}", f"--config={words}"]
    assert indexed(*both)["tokens"] == 0
    for mode, width in (("vector", 384), ("hybrid", 384), ("hybrid", 96), ("text", 96)):
        flags = [f"--mode={mode}", f"--width={width}"]
        check(measured[mode, False, width, None], searched(capsys, *both, *flags, *queries.values()))
    flags = ["--mode=hybrid", f"--rerank={reranker['name']}", f"--candidates={CANDIDATES}", f"--k={CANDIDATES}"]
    check(measured["hybrid", True, 384, None], searched(capsys, *both, *flags, *queries.values()))

    recommended = next((tmp_path / "out").glob("*/recommended.toml"))
    configs = [f"--config={own}", f"--config={recommended}"]
    applied = indexed(*configs)
    assert (applied["status"], applied["epoch"], applied["tokens"]) == ("published", 3, 0)
    name = summary["recommendation"]["configuration"]
    chosen = next(row for row in summary["configurations"] if row["name"] == name)
    assert chosen["mode"] != "vector", "words find here"
    answers = searched(capsys, *configs, *queries.values())
    assert {answer["mode"] for answer in answers} == {chosen["mode"]}
    check(chosen, answers)
