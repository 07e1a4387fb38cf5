"""The evaluation with a real engine on real tables, and its report in a real browser.

The engines of the default tests share a process; the slow tests have real workers on Ray as well.
"""

import json
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.cluster.connection import Cluster
from indexer.errors import IndexerError, SettingsError
from indexer.evaluation import known_items
from indexer.evaluation import run as evaluation_run
from indexer.evaluation.judgements import Questions
from indexer.evaluation.measures import MRR, NDCG, RECALL
from indexer.evaluation_settings import KnownItemsSettings
from indexer.indexing import run
from indexer.search.published import open_published
from indexer.settings import EvaluateSettings, Settings
from indexer.storage import scratch
from indexer.testing.checkpoints import minilm_path, qwen3_checkpoint
from jobs.demo import python_docs
from tests.support.browser import opened
from tests.support.checkpoints import FAST_DTYPE, FEW, cross_encoder
from tests.support.local_cluster import LocalCluster

pytestmark = pytest.mark.timeout(1200)
"""An evaluation starts engines several times, which takes a minute each where processors are slow."""

WIDTHS = [384, 96]

ASKED = 30

EAGER = {"enforce_eager": True}

ONE_WORKER = {"workers": 1}
"""An engine takes longer to start than to read the corpus."""

ONLY_EXACT: dict[str, Any] = {"vector_indices": [], "precisions": ["float32"], "text_search": False}


def index_settings(root: Path) -> Settings:
    return Settings(
        corpus={"uri": str(root / "corpus"), "payload": ["module", "text"]},
        model={"name": minilm_path(), "max_tokens": 256, "overflow": "chunk", "chunk_overlap": 32, "dtype": "float32"},
        engine=EAGER,
        index={"uri": str(root / "index"), "widths": WIDTHS},
        cluster=ONE_WORKER,
        run={"progress": "none"},
    )


def evaluate_settings(root: Path, **sections: Any) -> EvaluateSettings:
    base: dict[str, Any] = {
        "index": {"uri": str(root / "index")},
        "compare": {"timed_queries": 10, "vector_indices": ["IVF_PQ"]},
        "output": {"uri": str(root / "out")},
        "engine": EAGER,
        "cluster": ONE_WORKER,
        "run": {"progress": "none"},
    }
    return EvaluateSettings(**{name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}})


def _index(given: Settings) -> None:
    """Indexes in a process for vLLM."""
    run.run(given, cluster=LocalCluster())


def _evaluate(given: EvaluateSettings) -> dict[str, Any]:
    """Evaluates in a process for vLLM."""
    return evaluation_run.run(given, LocalCluster())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, engine_process: Executor) -> Path:
    """An index of the documentation of 300 functions written in C, and of topics with many chunks."""
    found = {document.id: document for document in python_docs._native_documents() if document.kind == "function"}
    root = tmp_path_factory.mktemp("evaluation")
    write_corpus(root, [*found.values()][::2][:300] + [*python_docs._topics()][:3])
    engine_process.submit(_index, index_settings(root)).result()
    return root


def write_corpus(root: Path, chosen: Sequence[python_docs.Document]) -> None:
    """Writes some of the quickstart's documents as the quickstart writes its own."""
    (root / "corpus").mkdir()
    table = pa.table({name: [getattr(one, name) for one in chosen] for name in ("id", "text", "module")})
    pq.write_table(table, root / "corpus" / "a.parquet")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_few_queries_start_engines_without_compiling(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = evaluate_settings(root, known_items={"count": ASKED})
    published = open_published(str(root / "index"), "docs")  # with engine arguments that leave the choice
    asked = Questions({"q": "how to sort a list"}, {})
    with Cluster(given.cluster) as cluster:
        vectors, altered = evaluation_run._embedded(given, published, asked, cluster)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert altered is None
    assert "engines start without compiling" in capsys.readouterr().err


@pytest.fixture(scope="module")
def settings(root: Path) -> EvaluateSettings:
    return evaluate_settings(root, known_items={"count": ASKED})


@pytest.fixture(scope="module")
def summary(settings: EvaluateSettings, engine_process: Executor) -> dict[str, Any]:
    return engine_process.submit(_evaluate, settings).result()


@pytest.fixture(scope="module")
def folder(root: Path, summary: dict[str, Any]) -> Path:
    assert summary["epoch"] == 1
    (folder,) = (root / "out").iterdir()
    return folder


def _sentence_transformers(texts: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(minilm_path(), device="cpu").encode(texts, batch_size=64, convert_to_numpy=True)


def independent(root: Path, process: Executor, count: int) -> dict[int, dict[str, float]]:
    """The measures of every width: sentence-transformers' vectors, exact cosine, formulas written here."""
    published = open_published(str(root / "index"), "docs", engine=EAGER)
    questions = known_items.make(published.snapshot, KnownItemsSettings(count=count))
    rows = published.read(384, ["id", "chunk"]).to_pylist()
    own = [row for row in rows if row["id"] not in questions.altered]
    texts = published.texts([row["id"] for row in own], [row["chunk"] for row in own])
    owners = [row["id"] for row in own]
    altered = list(questions.altered.values())
    batch = published.model.tokenizer.documents(altered)
    for row, start, end in zip(batch.row, batch.char_start, batch.char_end, strict=True):
        owners.append(list(questions.altered)[row])
        texts.append(altered[row][start:end])
    vectors = process.submit(_sentence_transformers, [*texts, *questions.texts.values()]).result()
    return {width: _scored(vectors[:, :width], owners, list(questions.texts)) for width in WIDTHS}


def _scored(vectors: np.ndarray, owners: list[str], names: list[str]) -> dict[str, float]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit[len(owners) :] @ unit[: len(owners)].T
    places = []
    for name, row in zip(names, cosines, strict=True):
        best: dict[str, float] = {}
        for owner, cosine in zip(owners, row.tolist(), strict=True):
            best[owner] = max(best.get(owner, -2.0), cosine)
        places.append(1 + sum(cosine > best[name] for cosine in best.values()))
    return {
        NDCG: float(np.mean([1 / math.log2(place + 1) if place <= 10 else 0.0 for place in places])),
        RECALL: float(np.mean([place <= 100 for place in places])),
        MRR: float(np.mean([1 / place if place <= 10 else 0.0 for place in places])),
    }


def found(summary: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = (row for row in summary["configurations"] if row["name"] == name)
    return row


def test_measures_equal_an_independent_computation(
    root: Path, summary: dict[str, Any], reference_process: Executor
) -> None:
    check_measures(independent(root, reference_process, ASKED), summary)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_measures_of_the_whole_quickstart_equal_an_independent_computation(
    tmp_path: Path, reference_process: Executor
) -> None:
    count = 300
    write_corpus(tmp_path, python_docs.documents())
    run.run(index_settings(tmp_path))
    summary = evaluation_run.run(evaluate_settings(tmp_path, known_items={"count": count}, compare=ONLY_EXACT))
    assert summary["queries"] == count
    check_measures(independent(tmp_path, reference_process, count), summary)


def check_measures(expected: dict[int, dict[str, float]], summary: dict[str, Any]) -> None:
    assert list(expected) == WIDTHS
    for width, measured in expected.items():
        row = found(summary, f"{width} float32 exact")
        print({name: (row[name], round(value, 4)) for name, value in measured.items()})
        assert {name: row[name] for name in measured} == pytest.approx(measured, abs=0.005)
        assert 0.1 < measured[NDCG] < 1


def test_every_configuration_is_evaluated(summary: dict[str, Any]) -> None:
    names = [row["name"] for row in summary["configurations"]]
    for width in WIDTHS:
        exact = [f"{width} float32 exact", f"{width} float16 exact", f"{width} float32 IVF_PQ"]
        assert {*exact, f"{width} float32 exact, with text"} <= set(names)
    for width in WIDTHS[1:]:
        assert {f"{width} float32 {how}, rescored at 384" for how in ("exact", "IVF_PQ")} <= set(names)
    assert "text alone" in names
    assert len(names) == len(set(names)) == 11
    assert summary["absent"] == {}


def test_cost_stands_beside_quality(root: Path, summary: dict[str, Any]) -> None:
    full, narrow = found(summary, "384 float32 exact"), found(summary, "96 float32 exact")
    rounded, indexed = found(summary, "384 float16 exact"), found(summary, "384 float32 IVF_PQ")
    staged = found(summary, "96 float32 exact, rescored at 384")
    assert full["table_bytes"] > narrow["table_bytes"]
    assert rounded["table_bytes"] < full["table_bytes"]
    assert abs(rounded[NDCG] - full[NDCG]) < 0.01
    assert (full["index_bytes"], full["recall_at_10"]) == (0, None)
    assert indexed["index_bytes"] > 0
    assert 0.8 < indexed["recall_at_10"] <= 1
    documents = open_published(str(root / "index"), "docs").epoch.documents
    assert documents is not None
    once = full["table_bytes"] + narrow["table_bytes"] - staged["table_bytes"]
    assert once == pytest.approx(documents.bytes, rel=0.1), "both read it, and a copy is compacted otherwise"
    assert staged[NDCG] == pytest.approx(full[NDCG], abs=0.02)
    assert found(summary, "96 float32 exact, with text")["index_bytes"] > 0
    for row in summary["configurations"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["queries_per_second"] > 0
        assert row["difference"]["low"] <= row["difference"]["mean"] <= row["difference"]["high"]


def test_measures_of_every_query_are_kept(folder: Path, summary: dict[str, Any]) -> None:
    queries = pl.read_parquet(folder / "queries.parquet")
    assert queries.columns == ["configuration", "query_id", NDCG, RECALL, MRR]
    means = dict(queries.group_by("configuration").agg(pl.col(NDCG).mean()).iter_rows())
    assert means == pytest.approx({row["name"]: row[NDCG] for row in summary["configurations"]}, abs=1e-4)
    assert set(queries.group_by("configuration").len()["len"]) == {ASKED}


def test_the_recommendation_is_within_the_loss(folder: Path, summary: dict[str, Any]) -> None:
    recommended = summary["recommendation"]
    row, reference = found(summary, recommended["configuration"]), summary["configurations"][0]
    assert row[NDCG] >= 0.99 * reference[NDCG] - 1e-4
    assert recommended["configuration"] in recommended["front"]
    assert (folder / "recommended.toml").read_text(encoding="utf-8") == recommended["toml"]
    assert f'mode = "{row["mode"]}"' in recommended["toml"]
    assert recommended["configuration"] in (folder / "report.md").read_text(encoding="utf-8")


def test_copies_are_dropped_and_a_rerun_does_nothing(
    folder: Path, settings: EvaluateSettings, summary: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not (folder / "tables").exists()
    assert evaluation_run.run(settings) == summary
    assert "an earlier run evaluated this epoch" in capsys.readouterr().err


def test_neither_queries_nor_documents_are_in_the_summary(summary: dict[str, Any], root: Path) -> None:
    published = open_published(str(root / "index"), "docs")
    questions = known_items.make(published.snapshot, KnownItemsSettings(count=ASKED))
    text = json.dumps(summary)
    assert not [query for query in questions.texts.values() if query in text]


def test_the_report_opens_in_a_browser(folder: Path, summary: dict[str, Any]) -> None:
    with opened(folder / "report.html") as page:
        shown = page.locator("table tbody tr td:first-child").all_inner_texts()
        charts = [chart.bounding_box() for chart in page.locator("figure svg").all()]
    assert shown == [row["name"] for row in summary["configurations"]]
    assert len(charts) == 3
    assert all(box is not None and box["width"] > 300 and box["height"] > 200 for box in charts)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"name": cross_encoder(tmp_path_factory.mktemp("cross-encoder")), "max_tokens": 256}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_judged_queries_are_run_against_the_published_tables_and_reranked(
    root: Path, reranker: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that cannot be built is absent with its reason; everything else is evaluated."""

    def fails(uri: str, name: str, kind: str, metric: str) -> int:  # noqa: ARG001
        raise IndexerError(f"no {kind} index of table {name}: not today")

    monkeypatch.setattr(scratch, "build_vector_index", fails)
    published = open_published(str(root / "index"), "docs", engine=EAGER)
    names = known_items.drawn(published.snapshot, 30)
    texts = published.texts(names)
    queries = [{"_id": f"q{at}", "text": " ".join((text or "").split()[:12])} for at, text in enumerate(texts)]
    (root / "queries.jsonl").write_text("\n".join(map(json.dumps, [*queries, {"_id": "other", "text": "unjudged"}])))
    judged = [f"q{at}\t{name}\t1" for at, name in enumerate(names)]
    lines = ["query-id\tcorpus-id\tscore", *judged, "q0\tnowhere\t1", "stranger\tnowhere\t1"]
    (root / "qrels.tsv").write_text("\n".join(lines))
    given = evaluate_settings(
        root,
        queries={"uri": str(root / "queries.jsonl")},
        judgements={"uri": str(root / "qrels.tsv")},
        compare=ONLY_EXACT | {"candidates": 20, "widths": [384, 128], "vector_indices": ["IVF_SQ"]},
        reranker=reranker,
    )
    summary = evaluation_run.run(given)
    assert summary["notes"] == {
        "queries without judgements": 1,
        "judged queries without a text": 1,
        "judged documents that the index does not have": 1,
    }
    staged = "128 float32 IVF_SQ, rescored at 384"
    assert list(summary["absent"]) == ["384 float32 IVF_SQ", "128 float32 IVF_SQ", staged]
    assert "not today" in summary["absent"][staged]
    exact = found(summary, "384 float32 exact")
    documents = published.epoch.documents
    assert documents is not None
    assert exact["table_bytes"] == published.epoch.tables[0].bytes + documents.bytes, "the published tables themselves"
    assert exact[MRR] > 0.9, "the beginning of a document finds it"
    assert found(summary, "128 float32 exact")[NDCG] > 0.5, "a width that is not published is cut from the widest"
    reranked = found(summary, "384 float32 exact, reranked")
    assert reranked["rerank_seconds"] > 0
    assert reranked[NDCG] < exact[NDCG], "random weights spoil the order"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_queries_are_written_by_a_generator_and_filtered(
    root: Path, reranker: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random weights write noise: what is shown is that it goes through generator, filter and measures."""
    generator = qwen3_checkpoint(tmp_path_factory.mktemp("generator"), FEW, kind="reranker", dtype=FAST_DTYPE)
    compare = ONLY_EXACT | {"widths": [384]}
    written = {"name": generator, "count": 20, "query_tokens": 12, "max_tokens": 512, "least_score": 0.0}
    given = evaluate_settings(root, compare=compare, reranker=reranker, synthetic=written)
    summary = evaluation_run.run(given)
    assert summary["queries"] > 1
    assert summary["queries"] + sum(summary["notes"].values()) == 20, "noise is often empty or the same, and counted"


def test_settings_that_contradict_the_index_are_named(root: Path) -> None:
    with pytest.raises(SettingsError, match=r"compare\.widths: 512 is above 384"):
        evaluation_run.run(evaluate_settings(root, known_items={}, compare={"widths": [512]}))
    with pytest.raises(SettingsError, match="the tables have no column 'title'; the payload is module, text"):
        evaluation_run.run(evaluate_settings(root, known_items={"query": "title"}), LocalCluster())
    with pytest.raises(SettingsError, match="no epoch of index 'other'"):
        evaluation_run.run(evaluate_settings(root, known_items={}, index={"name": "other"}))
