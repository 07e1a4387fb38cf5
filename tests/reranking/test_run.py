"""The scoring job on real Ray and real tables, with fake engines in the workers: plumbing, never relevance."""

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import CorpusError, IndexerError, SettingsError
from indexer.inference.model import open_reranker
from indexer.inference.pair_inputs import PairTokenizer
from indexer.inference.sequences import TokenSequences
from indexer.reranking import run as reranking_run
from indexer.search import modes
from indexer.search.modes import SearchOptions
from indexer.search.published import open_published
from indexer.settings import ScoreSettings
from indexer.testing.fakes import FakeEngine, FakeModel, FakeReranker
from tests.support import fakes
from tests.support.checkpoints import cross_encoder
from tests.support.fakes import words, write
from tests.support.local_cluster import LocalCluster

pytestmark = pytest.mark.usefixtures("ray_cluster")

POISON, CANARY = "zebra", "canarytext"


def settings(root: Path, path: str, **sections: Any) -> ScoreSettings:
    """Settings of a run on ``root/pairs.parquet`` in several shards."""
    base: dict[str, Any] = {
        "model": {"name": path, "max_tokens": 256},
        "output": {"uri": str(root / "out")},
        "run": {"shard_pairs": 20, "progress": "none"},
    }
    if "queries" not in sections:
        base["pairs"] = {"uri": str(root / "pairs.parquet"), "document_column": "document"}
    return ScoreSettings(**{name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}})


def run(
    given: ScoreSettings, embedding: dict[str, Any] | None = None, cluster: Any = None, **faults: Any
) -> dict[str, Any]:
    """Scores with fake engines, the embedding one with faults of its own."""
    reranker = FakeReranker.of(open_reranker(given.model, given.engine), **faults)
    if given.queries is None:
        return reranking_run.run(given, reranker, cluster=cluster)
    embedder = FakeModel.of(open_published(given.index.uri, given.index.name).model, **embedding or {})
    return reranking_run.run(given, reranker, embedder, cluster)


def results(given: ScoreSettings) -> list[dict[str, Any]]:
    """Rows of the Parquet dataset in the order of its files."""
    files = sorted((Path(given.output.uri) / "scores").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def pairs(tmp_path: Path) -> list[dict[str, Any]]:
    """100 pairs of 10 queries, written with a column of their own, two of them without a side."""
    rows = [
        {"query": f"query {query}", "document": f"document {number} of {query}", "kept": query * 10 + number}
        for query, number in itertools.product(range(10), range(10))
    ]
    rows[13]["document"] = None
    rows[57]["query"] = None
    rows[58]["document"] = ""
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet", row_group_size=7)
    return rows


def expected_scores(model: str, rows: list[dict[str, Any]]) -> list[float | None]:
    tokenizer, engine = PairTokenizer(model, 256), FakeEngine()
    whole = [row for row in rows if row["query"] is not None and row["document"] is not None]
    ids = tokenizer.pairs([row["query"] for row in whole], [row["document"] for row in whole]).ids
    scores = iter(engine.score(ids).tolist())
    return [next(scores) if row in whole else None for row in rows]


def test_every_pair_gets_its_score_and_keeps_its_columns(
    tmp_path: Path, pairs: list[dict[str, Any]], reranker_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(tmp_path, reranker_path)
    summary = run(given)
    assert "engines start without compiling" in capsys.readouterr().err, "100 pairs are no work to compile for"
    found = results(given)
    assert [{key: row[key] for key in ("query", "document", "kept")} for row in found] == pairs
    assert [row["score"] for row in found] == pytest.approx(expected_scores(reranker_path, pairs))
    assert (summary["pairs"], summary["scored"], summary["unscored"]) == (100, 98, 2)
    shards = sorted((tmp_path / "out" / "scores").glob("*"))
    assert len(shards) == 5
    per_shard = [set(pq.read_table(file)["query"].to_pylist()) - {None} for file in shards]
    assert sum(map(len, per_shard)) == 10, "pairs of one query stay together"
    assert run(given, exits_on=1) == summary
    assert summary["fallbacks"] == []


def test_a_killed_worker_loses_no_pair_and_writes_no_text_anywhere_but_in_the_results(
    tmp_path: Path, pairs: list[dict[str, Any]], reranker_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in pairs:
        row |= {"query": f"{CANARY} {row['query']}", "document": f"{CANARY} {row['document']}"}
    pairs[44]["document"] = f"{CANARY} {POISON}"
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    given = settings(tmp_path, reranker_path, run={"retries": 0, "progress": "lines"})
    (poison, *_) = set(_ids(reranker_path, POISON)) - set(_ids(reranker_path, f"{CANARY} document"))
    with pytest.raises(IndexerError, match="1 of 5 shards failed") as failure:
        run(given, exits_on=poison)
    assert len(results(given)) == 80
    summary = run(given)
    assert summary["resumed_shards"] == 4
    assert [row["kept"] for row in results(given)] == list(range(100))
    assert [row["score"] for row in results(given)] == pytest.approx(expected_scores(reranker_path, pairs))
    logs = [path for path in Path(os.environ["RAY_TMPDIR"]).rglob("*") if path.is_file()]
    assert any("worker" in path.name for path in logs)
    kept = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and ".parquet" not in path.name]
    assert any("receipts" in path.parts for path in kept)
    printed = capsys.readouterr()
    assert "4 of 5 shards are written already" in printed.err
    said = [json.dumps(summary), str(failure.value), *printed]
    for content in (*(text.encode() for text in said), *(path.read_bytes() for path in (*logs, *kept))):
        assert CANARY.encode() not in content


def _ids(path: str, text: str) -> list[int]:
    return PairTokenizer(path, 256).pairs(["q"], [text]).ids[0].tolist()


@pytest.fixture
def index(tmp_path: Path) -> dict[str, str]:
    """A published index whose payload holds the texts, with full-text search."""
    write(tmp_path / "corpus" / "a.parquet", words(60))
    tables = {"uri": str(tmp_path / "index"), "widths": fakes.WIDTHS, "text_search": ["text"]}
    given = fakes.settings(tmp_path, corpus={"payload": ["kind", "text"]}, index=tables)
    fakes.run_here(given)
    return {"uri": given.index.uri, "name": given.index.name}


def test_queries_are_searched_and_reranked(tmp_path: Path, index: dict[str, str], reranker_path: str) -> None:
    texts = dict(words(60))
    asked = {"query_id": ["a", "b", "with space", "no text"], "query": ["first", texts["doc-00007"], "third", None]}
    pq.write_table(pa.table(asked), tmp_path / "queries.parquet")
    queries = {"uri": str(tmp_path / "queries.parquet"), "candidates": 5, "width": 96, "oversample": 4}
    given = settings(tmp_path, reranker_path, queries=queries, index=index, run={"shard_pairs": 10})
    summary = run(given, cluster=LocalCluster())
    found = results(given)
    assert (summary["pairs"], summary["scored"], summary["queries_left_out"]) == (15, 15, 1)
    assert [(row["query_id"], row["rank"]) for row in found] == [
        (name, rank) for name in ("a", "b", "with space") for rank in range(1, 6)
    ]
    for name, rows in itertools.groupby(found, key=lambda row: row["query_id"]):
        ranked = list(rows)
        query = asked["query"][asked["query_id"].index(name)]
        pairs = [{"query": query, "document": texts[row["id"]]} for row in ranked]
        assert [row["score"] for row in ranked] == pytest.approx(expected_scores(reranker_path, pairs))
        assert [row["score"] for row in ranked] == sorted((row["score"] for row in ranked), reverse=True)
    table = lancedb.connect(given.output.uri).open_table("scores").to_arrow().to_pylist()
    key = lambda row: (row["query_id"], row["rank"])  # noqa: E731
    assert sorted(table, key=key) == found
    lines = (tmp_path / "out" / "scores.trec").read_text().splitlines()
    assert len(lines) == 15
    assert lines[0].split()[:4] == ["a", "Q0", found[0]["id"], "1"]
    assert lines[-1].startswith("with%20space Q0 ")
    assert run(given, cluster=LocalCluster(), exits_on=1) == summary


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_candidates_are_those_of_the_mode(tmp_path: Path, index: dict[str, str], reranker_path: str, mode: Any) -> None:
    """Of a text and of a word that one document has; words alone need no engine, and never call one."""
    asked = {"query_id": ["a", "b"], "query": [dict(words(60))["doc-00007"], "zebra 59"]}
    pq.write_table(pa.table(asked), tmp_path / "queries.parquet")
    queries = {"uri": str(tmp_path / "queries.parquet"), "candidates": 4, "mode": mode}
    given = settings(tmp_path, reranker_path, queries=queries, index=index)
    # BERT's first token, which every query has: an engine that embeds one dies.
    summary = run(given, {"dies_on": 101} if mode == "text" else None, LocalCluster())
    assert (summary["pairs"], summary["unscored"]) == (len(results(given)), 0)
    published = open_published(**index)
    vectors = FakeModel.of(published.model).engine().embed(published.model.tokenizer.queries(asked["query"]))
    options = SearchOptions(mode=mode, columns=["text", "char_start", "char_end"])
    found = modes.find(published.snapshot, asked["query"], vectors, 4, options, per_document=False)
    wanted = {name: {hit.id for hit in hits} for name, hits in zip(asked["query_id"], found, strict=True)}
    rows = results(given)
    assert {name: {row["id"] for row in rows if row["query_id"] == name} for name in "ab"} == wanted
    assert all((row["vector_score"] is None) == (mode == "text") for row in rows)
    assert "doc-00007" in wanted["a"]
    assert ("doc-00059" in wanted["b"]) == (mode != "vector")


def test_candidates_are_the_best_at_full_width(index: dict[str, str]) -> None:
    published = open_published(**index)
    vectors = np.stack([FakeEngine(fakes.WIDTHS[0]).embed(TokenSequences.of([[row]]))[0] for row in range(3)])
    exact = published.nearest(vectors, 5)
    rescored = published.nearest(vectors, 5, width=96, oversample=12)
    assert [[hit.id for hit in hits] for hits in rescored] == [[hit.id for hit in hits] for hits in exact]
    narrow = published.nearest(vectors, 5, width=96)
    assert narrow != exact
    for left, right in zip(rescored, exact, strict=True):
        assert [hit.score for hit in left] == pytest.approx([hit.score for hit in right], abs=1e-5)


def test_pairs_of_ids_take_their_texts_from_the_index(
    tmp_path: Path, index: dict[str, str], reranker_path: str
) -> None:
    texts = dict(words(60))
    rows = [{"query": "q", "doc": name} for name in ("doc-00003", "doc-00050", "unknown", None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    given = settings(tmp_path, reranker_path, pairs={"document_column": None, "document_id_column": "doc"}, index=index)
    summary = run(given, cluster=LocalCluster())
    pairs = [{"query": row["query"], "document": texts.get(row["doc"] or "")} for row in rows]
    assert [row["score"] for row in results(given)] == pytest.approx(expected_scores(reranker_path, pairs))
    assert (summary["scored"], summary["unscored"]) == (2, 2)


def test_unusable_input_is_named(tmp_path: Path, pairs: list[dict[str, Any]], reranker_path: str) -> None:
    with pytest.raises(CorpusError, match="column 'answer' is missing"):
        run(settings(tmp_path, reranker_path, pairs={"document_column": "answer"}))
    with pytest.raises(ValueError, match="document_column or document_id_column"):
        settings(tmp_path, reranker_path, pairs={"document_id_column": "kept"})
    with pytest.raises(ValueError, match=r"\[index\] is needed"):
        settings(tmp_path, reranker_path, queries={"uri": "x"})
    with pytest.raises(SettingsError, match="takes no instructions; leave it out"):
        run(settings(tmp_path, cross_encoder(tmp_path / "bert"), pairs={"instruction_column": "query"}))
    given = settings(tmp_path, reranker_path)
    run(given, cluster=LocalCluster())
    with pytest.raises(SettingsError, match=r"another run \(other reranker\)"):
        run(settings(tmp_path, reranker_path, model={"max_tokens": 128}))
    with pytest.raises(SettingsError, match=r"another run \(other reranker\)"):
        run(settings(tmp_path, reranker_path, model={"pooler_config": {"logit_mean": 1.0}}))
    with pytest.raises(SettingsError, match=r"another run \(other reranker\)"):
        run(settings(tmp_path, reranker_path, engine={"kv_cache_dtype": "fp8"}))
    pq.write_table(
        pa.Table.from_pylist(pairs).append_column("score", pa.array([1.0] * 100)), tmp_path / "pairs.parquet"
    )
    with pytest.raises(CorpusError, match="'score' has the name of a column of the results"):
        run(given)


@pytest.mark.parametrize("column", [pa.array([["d"]]), pa.array([{"text": "d"}])])
def test_a_column_that_is_no_text_is_named(tmp_path: Path, reranker_path: str, column: pa.Array) -> None:
    pq.write_table(pa.table({"query": ["q"], "document": column}), tmp_path / "pairs.parquet")
    with pytest.raises(CorpusError, match=r"column 'document' is .*, and not text or numbers"):
        run(settings(tmp_path, reranker_path))


def test_a_binary_column_is_text_where_it_is_utf_8(tmp_path: Path, reranker_path: str) -> None:
    documents = pa.array([b"document", b"\xff"], pa.large_binary())
    pq.write_table(pa.table({"query": ["q", "q"], "document": documents}), tmp_path / "pairs.parquet")
    summary = run(settings(tmp_path, reranker_path), cluster=LocalCluster())
    assert (summary["scored"], summary["unscored"]) == (1, 1)


def test_files_without_queries_are_passed_over_unless_all_are(
    tmp_path: Path, index: dict[str, str], reranker_path: str
) -> None:
    (tmp_path / "queries").mkdir()
    asked = pa.table({"query_id": ["a"], "query": ["first"]})
    pq.write_table(asked.slice(0, 0), tmp_path / "queries" / "0.parquet")
    queries = {"uri": str(tmp_path / "queries"), "candidates": 5}
    given = settings(tmp_path, reranker_path, queries=queries, index=index)
    with pytest.raises(CorpusError, match=r"queries\.uri: no row of 1 files has a query's id"):
        run(given, cluster=LocalCluster())
    pq.write_table(asked, tmp_path / "queries" / "1.parquet")
    assert run(given, cluster=LocalCluster())["pairs"] == 5


def test_an_index_that_was_made_anew_is_another_one(tmp_path: Path, index: dict[str, str], reranker_path: str) -> None:
    """Its first epoch has the number of the one before. Folders of earlier versions do not tell, and go on."""
    pq.write_table(pa.table({"query_id": ["a"], "query": ["first"]}), tmp_path / "queries.parquet")
    queries = {"uri": str(tmp_path / "queries.parquet"), "candidates": 5, "mode": "text"}
    given = settings(tmp_path, reranker_path, queries=queries, index=index)
    summary = run(given, cluster=LocalCluster())
    shutil.rmtree(tmp_path / "index")
    write(tmp_path / "corpus" / "a.parquet", words(60, seed=1))
    tables = {"uri": str(tmp_path / "index"), "widths": fakes.WIDTHS, "text_search": ["text"]}
    fakes.run_here(fakes.settings(tmp_path, corpus={"payload": ["kind", "text"]}, index=tables))
    with pytest.raises(SettingsError, match=r"another run \(other epoch\)"):
        run(given, cluster=LocalCluster())
    noted = tmp_path / "out" / "_control" / "run.json"
    known = json.loads(noted.read_text())
    del known["epoch"]
    noted.write_text(json.dumps(known))
    assert run(given, cluster=LocalCluster()) == summary


def test_a_query_id_that_occurs_twice_is_refused(tmp_path: Path, index: dict[str, str], reranker_path: str) -> None:
    pq.write_table(pa.table({"query_id": [1, 2, 1], "query": ["a", "b", "c"]}), tmp_path / "queries.parquet")
    given = settings(tmp_path, reranker_path, queries={"uri": str(tmp_path / "queries.parquet")}, index=index)
    with pytest.raises(CorpusError, match="query id '1' occurs twice"):
        run(given)


def test_an_index_without_texts_is_refused(tmp_path: Path, reranker_path: str) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    fakes.run_here(fakes.settings(tmp_path))
    pq.write_table(pa.table({"query_id": [1], "query": ["a"]}), tmp_path / "queries.parquet")
    queries = {"uri": str(tmp_path / "queries.parquet")}
    index = {"uri": str(tmp_path / "index")}
    with pytest.raises(SettingsError, match=r"add text to corpus\.payload"):
        run(settings(tmp_path, reranker_path, queries=queries, index=index))
