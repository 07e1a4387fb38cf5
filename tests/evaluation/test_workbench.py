"""Configurations on an index with the fake engine's vectors: tables, written queries, queries that are documents."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import CorpusError
from indexer.evaluation import judgements, synthetic
from indexer.evaluation import run as evaluation_run
from indexer.evaluation.configurations import Configuration
from indexer.evaluation.judgements import Questions
from indexer.evaluation.measures import NDCG
from indexer.evaluation.rerank import Rerank
from indexer.evaluation.run import Evaluation
from indexer.evaluation.trial import Latency
from indexer.evaluation.workbench import Workbench, rewrite
from indexer.evaluation_settings import SyntheticSettings
from indexer.inference.sequences import TokenSequences
from indexer.inference.tokenizer import text_encoder
from indexer.search import modes
from indexer.search.modes import SearchOptions
from indexer.search.published import Published, open_published
from indexer.settings import EngineSettings, EvaluateSettings
from indexer.testing.fakes import FakeEngine
from tests.support import fakes

pytestmark = pytest.mark.heavy


@pytest.fixture
def small(tmp_path: Path) -> Published:
    """50 documents with the fake engine's vectors: for what becomes of tables, never of quality."""
    fakes.write(tmp_path / "corpus" / "a.parquet", fakes.words(50))
    given = fakes.settings(tmp_path, corpus={"payload": ["text"]})
    fakes.run_here(given)
    return open_published(given.index.uri, given.index.name)


def test_written_queries_are_kept_where_the_document_answers(small: Published, qwen_path: str) -> None:
    """Ten documents; one query is empty, one is given twice, three are not answered."""
    given = SyntheticSettings(name=qwen_path, count=10, max_tokens=256, query_tokens=16)
    writer = synthetic.open_writer(given, EngineSettings())
    encode = text_encoder(qwen_path).plain.encode
    written = ["", "same", "same", *(f'"question {at}"\nand more' for at in range(3, 10))]
    scores = np.array([0.9] * 7 + [0.1, 0.2, np.nan], np.float32)

    def write(prompts: TokenSequences) -> list[list[int]]:
        assert [len(prompt) <= 240 for prompt in prompts] == [True] * 10
        return [encode(text).ids for text in written]

    found = synthetic.make(small, writer, write, lambda *_: scores)
    assert list(found.texts.values()) == ["same", "question 3", "question 4", "question 5", "question 6"]
    assert found.judgements == {name: {name: 1} for name in found.texts}
    assert found.notes == {
        "written queries that the reranker finds unanswered": 3,
        "written queries that are empty or the same": 2,
    }
    with pytest.raises(
        CorpusError, match=r"no query is left of 10: 9 have a score below synthetic\.least_score = 0\.5"
    ):
        synthetic.make(small, writer, write, lambda *_: scores * 0)


@pytest.fixture
def bench(small: Published, tmp_path: Path) -> Iterator[Workbench]:
    bench = Workbench(small, str(tmp_path / "tables"), None, 0.95)
    yield bench
    bench.drop()
    assert not (tmp_path / "tables").exists()


def test_published_tables_serve_where_they_can(bench: Workbench, small: Published, tmp_path: Path) -> None:
    own = bench.trial(Configuration(96, "float32"))
    assert own.opened.uri == small.uri
    copied = bench.trial(Configuration(96, "float16"))
    assert copied.opened.uri == str(tmp_path / "tables")
    vectors = small.read(384, ["vector"])["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 384)
    hits, rounded = (trial.ranked(vectors, ["x"] * 50, 5, 1) for trial in (own, copied))
    assert [[hit.id for hit in row[:1]] for row in hits] == [[hit.id for hit in row[:1]] for row in rounded]
    assert hits[0][0].score == pytest.approx(rounded[0][0].score, abs=1e-3)


def test_text_is_searched_as_readers_search_it(bench: Workbench, small: Published, tmp_path: Path) -> None:
    """Of an index without full text in a copy, of one with it in the published tables: the same hits, and readers'."""
    vectors = small.read(384, ["vector"])["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 384)[:5]
    queries = ["speaks of 919", "document 7", "seed", "nothing there", ""]
    chosen = [Configuration(96, "float32", mode="hybrid"), Configuration(96, "float32", mode="text")]
    copied = [bench.trial(one) for one in chosen]
    assert [trial.opened.uri for trial in copied] == [str(tmp_path / "tables")] * 2
    given = fakes.settings(
        tmp_path,
        corpus={"payload": ["text"]},
        index={"uri": str(tmp_path / "index"), "widths": fakes.WIDTHS, "text_search": ["text"]},
    )
    fakes.run_here(given)
    with open_published(given.index.uri, given.index.name) as searched:
        own = Workbench(searched, str(tmp_path / "more"), None, 0.95)
        published = [own.trial(one) for one in chosen]
        assert [trial.opened.uri for trial in published] == [small.uri] * 2
        for one, copy, there in zip(chosen, copied, published, strict=True):
            options = SearchOptions(mode=one.mode, width=one.width, columns=[])
            expected = list(modes.find(searched.snapshot, queries, vectors, 10, options))
            assert [[hit.id for hit in hits] for hit, hits in zip(queries, expected, strict=True) if hit]
            for trial in (copy, there):
                found = trial.ranked(vectors, queries, 10, 4)
                assert [[hit.id for hit in hits[:10]] for hits in found] == [
                    [hit.id for hit in hits] for hits in expected
                ]
            assert copy.index_bytes > 0
            assert there.timed(vectors, queries, 4).p95 > 0


def test_rewritten_documents_have_their_new_text_in_every_copy(small: Published, tmp_path: Path) -> None:
    altered = rewrite(small, {"doc-00007": "entirely other"}, FakeEngine(fakes.WIDTHS[0]).embed)
    bench = Workbench(small, str(tmp_path / "tables"), altered, 0.95)
    trial = bench.trial(Configuration(96, "float32", mode="hybrid"))
    assert trial.opened.texts(["doc-00007", "doc-00008"]) == ["entirely other", dict(fakes.words(50))["doc-00008"]]
    assert len(set(trial.opened.read(96, ["id", "text"])["id"].to_pylist())) == trial.opened.read(96).num_rows == 50
    text = SearchOptions(mode="text")
    hits = list(modes.find(trial.opened, ["entirely", "document 7 of seed"], None, 50, text))
    assert [hit.id for hit in hits[0]] == ["doc-00007"]
    assert "doc-00007" not in {hit.id for hit in hits[1]}
    bench.drop()
    assert not (tmp_path / "tables").exists()


def test_a_pair_is_scored_once_for_all_configurations(bench: Workbench, small: Published) -> None:
    """By a stand-in for the engines, which scores a pair by its length."""
    asked: list[int] = []

    class Pairs:
        def pairs(self, queries: list[str], texts: list[str]) -> list[int]:
            return [len(query + text) for query, text in zip(queries, texts, strict=True)]

    class Engines:
        tokenizer = Pairs()

        def score(self, pairs: list[int]) -> np.ndarray:
            asked.append(len(pairs))
            return np.array(pairs, np.float32)

    vectors = small.read(384, ["vector"])["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 384)[:3]
    engines: Any = Engines()
    rerank = Rerank(engines, engines, candidates=8)
    first, second = (bench.trial(Configuration(width, "float32", reranked=True)) for width in (384, 96))
    queries = ["one", "two", "three"]
    ordered = rerank.order(first, queries, first.ranked(vectors, queries, 8, 1))
    assert [len(hits) for hits in ordered] == [8] * 3
    assert asked == [24, 8, 8, 8], "all pairs in one batch, then three single queries, which are timed"
    assert len(rerank.waits) == 3
    rerank.order(first, queries, first.ranked(vectors, queries, 8, 1))
    assert len(asked) == 4, "nothing is scored twice"
    rerank.order(second, queries, second.ranked(vectors, queries, 8, 1))
    assert 0 < asked[4] <= 24
    both = rerank.added_to(Latency(0.5, 1.0, 10.0))
    assert both.p50 > 0.5
    assert both.queries_per_second < 10


def test_a_query_that_is_a_document_does_not_find_itself(bench: Workbench, small: Published, tmp_path: Path) -> None:
    """As in ArguAna: every query is a document, and the nearest other document answers it."""
    found = small.read(384, ["id", "text", "vector"])
    names, texts = found["id"].to_pylist(), found["text"].to_pylist()
    vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 384)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    answers = {name: {names[best]: 1} for name, best in zip(names, scores.argmax(1), strict=True)}
    questions = judgements.checked(Questions(dict(zip(names, texts, strict=True)), answers), set(names))
    place = {"uri": str(tmp_path / "index")}
    given = EvaluateSettings(index=place, output=place, known_items={}, compare={"timed_queries": 1})
    with ExitStack() as stack:
        nobody: Any = None
        evaluation = Evaluation(given, small, questions, vectors, bench, None, nobody, stack)
        measured = evaluation_run._measured(evaluation, Configuration(384, "float32"))
    assert measured is not None
    assert measured.queries[NDCG].to_list() == [1.0] * len(names)
    assert sum(questions.notes.values()) == len(names)
