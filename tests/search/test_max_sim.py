"""Searches of token vectors: the answers are those of MaxSim by its definition, in every mode and with filters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.commands import search as search_command
from indexer.inference.model import open_reranker
from indexer.reranking import run as reranking_run
from indexer.search.hits import Hit
from indexer.search.published import Published
from indexer.settings import ScoreSettings, Settings
from indexer.testing.fakes import FakeModel, FakeReranker
from tests.support import fakes
from tests.support.checkpoints import cross_encoder
from tests.support.local_cluster import LocalCluster
from tests.support.readers import fake_readers
from tests.support.token_vectors import max_sim, opened, settings, stored

pytestmark = pytest.mark.heavy

COUNT = 60

LONG = 4
"""Documents of several chunks."""

QUERIES = ["page seven, beast", "sentence 3 of page 2", "What is a page?", "beast 41"]


def text(row: int) -> str:
    filler = " ".join(f"sentence {at} of page {row} says little." for at in range(20))
    return f"{filler} A beast{row}." if row < LONG else f"Page {row} speaks of beast {row}."


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """60 documents, the first ones of several chunks, their payload stored once."""
    root = tmp_path_factory.mktemp("tokens")
    (root / "corpus").mkdir()
    columns = {
        "id": [f"doc-{row:02}" for row in range(COUNT)],
        "text": [text(row) for row in range(COUNT)],
        "kind": [f"k{row % 3}" for row in range(COUNT)],
        "size": list(range(COUNT)),
    }
    pq.write_table(pa.table(columns), root / "corpus" / "a.parquet")
    base = settings(root)
    made = settings(
        root,
        corpus={"uri": base.corpus.uri, "payload": ["text", "kind", "size"]},
        model={"name": base.model.name, "overflow": "chunk", "chunk_overlap": 8},
        index={"uri": base.index.uri, "text_search": ["text"], "filters": ["kind"]},
    )
    fakes.run_here(made)
    return made


def query_vectors(published: Published, queries: list[str]) -> list[np.ndarray]:
    """The fake engine's vectors of queries."""
    model = FakeModel.of(published.model)
    ids = model.tokenizer.queries(queries)
    return np.split(model.engine().embed(ids), np.cumsum(ids.lengths)[:-1])


def best(scores: dict[tuple[str, int], float], k: int, *, per_document: bool = False) -> list[tuple[str, int]]:
    """The best rows, or each document's best one."""
    ordered = sorted(scores, key=lambda key: -scores[key])
    if per_document:
        firsts: dict[str, tuple[str, int]] = {}
        for key in ordered:
            firsts.setdefault(key[0], key)
        ordered = list(firsts.values())
    return ordered[:k]


def keys(hits: list[Hit]) -> list[tuple[str, int]]:
    return [(hit.id, hit.chunk) for hit in hits]


@pytest.mark.parametrize("count", [1, 40])
def test_nearest_rows_are_those_of_numpy(given: Settings, count: int) -> None:
    published, rows = opened(given), stored(given)
    queries = [f"{QUERIES[at % len(QUERIES)]} {at}" for at in range(count)]
    vectors = query_vectors(published, queries)
    for query, chunks, documents in zip(
        vectors, published.nearest(vectors, 10), published.nearest(vectors, 10, per_document=True), strict=True
    ):
        scores = max_sim(query, rows)
        assert keys(chunks) == best(scores, 10)
        assert keys(documents) == best(scores, 10, per_document=True)
        assert [hit.score for hit in chunks] == pytest.approx([scores[key] for key in keys(chunks)], abs=1e-4)
        assert {"text", "kind", "size", "char_start", "char_end"} == chunks[0].payload.keys()
    plain = published.table().search(vectors[0]).limit(10).to_list()
    assert [(row["id"], row["chunk"]) for row in plain] == keys(published.nearest(vectors[:1], 10)[0]), "LanceDB's own"
    assert published.nearest(vectors, 10, oversample=5) == published.nearest(vectors, 10)


def test_rows_are_filtered_before_they_are_searched(given: Settings) -> None:
    with fake_readers():
        published = opened(given)
        rows = stored(given)
        vectors = query_vectors(published, QUERIES)
        for options, keeps in (
            ({"where": "kind = 'k1'"}, lambda row: row % 3 == 1),
            ({"where": "size >= 50"}, lambda row: row >= 50),
            ({"filters": {"kind": ["k0", "k2"], "size": (None, 30)}}, lambda row: row % 3 != 1 and row <= 30),
        ):
            kept = {key: one for key, one in rows.items() if keeps(int(key[0][-2:]))}
            found = published.search(QUERIES, 5, **options)
            for hits, query in zip(found, vectors, strict=True):
                assert keys(hits) == best(max_sim(query, kept), 5, per_document=True)
        assert published.search(QUERIES[:1], 5, where="size > 900") == [[]]


def test_words_and_fused_ranks_come_with_max_sim(given: Settings) -> None:
    with fake_readers():
        published = opened(given)
        (words,) = published.search(["beast 41"], 3, mode="text")
        assert (words[0].id, words[0].vector_score) == ("doc-41", None)
        (hits,) = published.search(["beast 41"], 60, mode="hybrid")
    scores = max_sim(query_vectors(published, ["beast 41"])[0], stored(given))
    assert {hit.id for hit in hits} == {name for name, _ in scores}
    for hit in hits:
        assert hit.vector_score == pytest.approx(scores[hit.id, hit.chunk], abs=1e-4)
    ranked = [hit.id for hit in sorted(hits, key=lambda hit: hit.vector_rank or 99)]
    assert ranked[:10] == [name for name, _ in best(scores, 10, per_document=True)]


def test_the_commands_answer(
    given: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "index.toml"
    file.write_text(f'[index]\nuri = "{given.index.uri}"\n')
    monkeypatch.setattr("sys.argv", ["search", f"--config={file}", "--json", "--k=3", *QUERIES])
    with fake_readers():
        search_command.main()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    vectors = query_vectors(opened(given), QUERIES)
    for answer, query in zip(answers, vectors, strict=True):
        wanted = best(max_sim(query, stored(given)), 3, per_document=True)
        assert [(hit["id"], hit["chunk"]) for hit in answer["results"]] == wanted
        assert (answer["width"], answer["mode"], answer["results"][0]["text"] != "") == (32, "vector", True)


def test_candidates_of_a_scoring_run_are_the_nearest(given: Settings, tmp_path: Path) -> None:
    pq.write_table(pa.table({"query_id": ["a", "b"], "query": QUERIES[:2]}), tmp_path / "queries.parquet")
    asked: dict[str, Any] = {"uri": str(tmp_path / "queries.parquet"), "candidates": 6}
    score = ScoreSettings(
        model={"name": cross_encoder(tmp_path / "reranker"), "max_tokens": 256},
        queries=asked,
        index={"uri": given.index.uri},
        output={"uri": str(tmp_path / "out")},
        run={"progress": "none"},
    )
    reranker = FakeReranker.of(open_reranker(score.model, score.engine))
    summary = reranking_run.run(score, reranker, FakeModel.of(opened(given).model), LocalCluster())
    assert (summary["pairs"], summary["unscored"]) == (12, 0)
    rows = [row for file in (tmp_path / "out" / "scores").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    for name, query in zip("ab", query_vectors(opened(given), QUERIES[:2]), strict=True):
        scores = max_sim(query, stored(given))
        found = {row["id"] for row in rows if row["query_id"] == name}
        assert found == {document for document, _ in best(scores, 6)}
