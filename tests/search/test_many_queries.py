"""Many queries at once find what each finds alone, whichever way the table is searched."""

from pathlib import Path

import numpy as np
import pytest

from indexer.errors import SettingsError
from indexer.search import threads, vector_search
from indexer.search.hits import Hit
from indexer.search.snapshot import Snapshot
from indexer.settings import Settings
from tests.support.fakes import run_here, settings, words, write
from tests.support.readers import open_reader

DOCUMENTS = 300

QUERIES = 40


@pytest.fixture(scope="module", params=["cosine", "l2", "dot"])
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An index without a vector index."""
    root: Path = tmp_path_factory.mktemp("many")
    given = settings(root, index={"metric": request.param})
    write(root / "corpus" / "a.parquet", words(DOCUMENTS))
    run_here(given)
    return given


def keys(answers: list[list[Hit]]) -> list[list[tuple[str, int]]]:
    return [[(hit.id, hit.chunk) for hit in hits] for hits in answers]


@pytest.mark.parametrize("columns", [None, [], ["kind"]])
@pytest.mark.parametrize("where", [None, "id < 'doc-00100'"])
def test_one_pass_finds_what_single_searches_find(
    given: Settings, columns: list[str] | None, where: str | None
) -> None:
    vectors = np.random.default_rng(0).standard_normal((QUERIES, 384)).astype(np.float32)
    with open_reader(given) as published:
        tables = published.snapshot
        many = tables.nearest(vectors, 10, 96, where, columns=columns)
        single = [tables.nearest(vector[None], 10, 96, where, columns=columns)[0] for vector in vectors]
    assert keys(many) == keys(single)
    assert [[hit.payload for hit in hits] for hits in many] == [[hit.payload for hit in hits] for hits in single]
    scores = [[hit.score for hit in hits] for hits in many]
    np.testing.assert_allclose(scores, [[hit.score for hit in hits] for hits in single], atol=1e-5)


def test_fewer_rows_than_hits_are_all_found(given: Settings) -> None:
    vectors = np.ones((QUERIES, 384), np.float32)
    with open_reader(given) as published:
        found = published.nearest(vectors, 10, 96, "id < 'doc-00003'")
        assert [len(hits) for hits in found] == [3] * QUERIES
        assert published.nearest(vectors, 10, 96, "id < 'a'") == [[]] * QUERIES
        with pytest.raises(SettingsError, match="No field named nothing"):
            published.nearest(vectors, 10, 96, "nothing = 1")


@pytest.mark.heavy
def test_threads_find_what_single_searches_find(given: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).standard_normal((QUERIES, 384)).astype(np.float32)
    with open_reader(given) as published:
        tables: Snapshot = published.snapshot
        single = [tables.nearest(vector[None], 5, 96)[0] for vector in vectors]
        rescored = tables.nearest(vectors, 5, 96, oversample=3)
        assert keys(rescored) == [keys(tables.nearest(vector[None], 5, 96, oversample=3))[0] for vector in vectors]
        monkeypatch.setattr(vector_search, "MANY", 10**9)
        assert keys(tables.nearest(vectors, 5, 96)) == keys(single)


def test_results_are_given_as_they_come_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MOST_THREADS", 2)
    begun: list[int] = []

    def answer(row: int) -> int:
        begun.append(row)
        if row == 50:
            raise ValueError(row)
        return row

    stream = threads.in_threads(answer, range(100))
    assert next(stream) == 0
    assert len(begun) <= 2 + 2 * threads.AHEAD
    with pytest.raises(ValueError, match="50"):
        list(stream)
    assert len(begun) < 100
