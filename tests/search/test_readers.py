"""Readers that many threads share and that stay usable: batching, closing, interrupts, another epoch, another place."""

import gc
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import EngineDead, IndexerError, RefusedError, SettingsError
from indexer.search.published import Published
from indexer.settings import Settings
from indexer.testing.checkpoints import minilm_path
from tests.support.fakes import POISON, poison_token, run_here, settings, words, write
from tests.support.readers import CountedEngine, fake_readers, handle_sigint, open_reader

pytestmark = pytest.mark.heavy

QUERIES = [text for _, text in words(40)]


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """An index of 40 documents."""
    given = settings(tmp_path)
    write(tmp_path / "corpus" / "a.parquet", words(40))
    run_here(given)
    return given


@pytest.fixture
def engines() -> Iterator[list[CountedEngine]]:
    with fake_readers() as started:
        yield started


def own(published: Published, query: str) -> str:
    """Id of the best hit."""
    return published.search([query], 3)[0][0].id


def test_threads_that_ask_at_once_are_answered_together(given: Settings, engines: list[CountedEngine]) -> None:
    with open_reader(given) as published, ThreadPoolExecutor(8) as threads:
        alone = [published.search([query], 3) for query in QUERIES]
        assert list(threads.map(lambda query: published.search([query], 3), QUERIES)) == alone
        before = engines[0].batches
        engines[0].goes.clear()
        asked = [threads.submit(published.search, [query], 3) for query in QUERIES[:8]]
        threading.Event().wait(0.5)
        engines[0].goes.set()
        assert [answer.result() for answer in asked] == alone[:8]
        assert engines[0].batches - before <= 3
    assert len(engines) == 1


def test_a_query_that_kills_the_engine_fails_alone(given: Settings) -> None:
    queries = [*QUERIES[:3], f"what of the {POISON}", *QUERIES[3:6]]
    with (
        fake_readers(seconds_per_token=0.0005, dies_on=poison_token()) as engines,
        open_reader(given) as published,
        ThreadPoolExecutor(8) as threads,
    ):
        asked = [threads.submit(published.embed, [query]) for query in queries]
        failed = [query for query, answer in zip(queries, asked, strict=True) if answer.exception() is not None]
        assert failed == [queries[3]]
        assert isinstance(asked[3].exception(), EngineDead)
        assert published.embed([QUERIES[0]]).shape == (1, 384)
        assert [engine.is_closed for engine in engines] == [True] * (len(engines) - 1) + [False]


def test_an_interrupted_call_leaves_the_reader_usable(given: Settings) -> None:
    handle_sigint()
    with fake_readers(seconds_per_token=0.002) as engines, open_reader(given) as published:
        published.embed(QUERIES[:1])
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                _interrupted(lambda: published.search(QUERIES))
        assert own(published, QUERIES[7]) == "doc-00007"
        assert len(engines) == 1


def _interrupted(call: object) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    call()  # type: ignore[operator]
    timer.cancel()


def test_a_closed_reader_refuses_and_leaves_nothing(given: Settings, engines: list[CountedEngine]) -> None:
    published = open_reader(given)
    assert own(published, QUERIES[0]) == "doc-00000"
    assert tags(given)
    published.close()
    published.close()
    assert engines[0].is_closed
    assert tags(given) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "query-engine"]
    for call in (lambda: published.search(QUERIES), lambda: published.read(96), published.refresh):
        with pytest.raises(SettingsError, match="closed"):
            call()


def test_a_forgotten_reader_leaves_nothing(given: Settings, engines: list[CountedEngine]) -> None:
    assert own(open_reader(given), QUERIES[0]) == "doc-00000"
    gc.collect()
    assert engines[0].is_closed
    assert tags(given) == []


def test_a_refresh_keeps_the_engine(given: Settings, engines: list[CountedEngine], tmp_path: Path) -> None:
    with open_reader(given) as published:
        assert not published.refresh()
        before = published.snapshot
        assert own(published, QUERIES[0]) == "doc-00000"
        write(tmp_path / "corpus" / "a.parquet", [("new", QUERIES[0]), *words(40)[1:]])
        run_here(given)
        assert own(published, QUERIES[0]) == "doc-00000"
        assert published.refresh()
        assert (published.epoch.number, before.epoch.number) == (2, 1)
        assert own(published, QUERIES[0]) == "new"
        assert "doc-00000" in before.read(96)["id"].to_pylist()
        assert len(engines) == 1
        asking = settings(tmp_path, model={"query_instruction": "Find it"})
        run_here(asking)
        assert published.refresh()
        assert published.model.query_instruction == "Find it"
        assert own(published, QUERIES[0]) == "new"
        assert len(engines) == 1


def test_a_refresh_to_another_model_starts_its_engine(
    given: Settings, engines: list[CountedEngine], tmp_path: Path
) -> None:
    with open_reader(given) as published:
        assert own(published, QUERIES[0]) == "doc-00000"
        run_here(settings(tmp_path, model={"max_tokens": 64}), rebuild=True)
        assert published.refresh()
        assert own(published, QUERIES[1]) == "doc-00001"
        gc.collect()
        assert [engine.is_closed for engine in engines] == [True, False]


def test_a_refresh_that_the_engine_does_not_fit_is_refused(given: Settings, tmp_path: Path) -> None:
    with fake_readers() as engines, open_reader(given) as published:
        assert own(published, QUERIES[0]) == "doc-00000"
        write(tmp_path / "corpus" / "a.parquet", words(41))
        run_here(given)
        engines[0]._turned_to = 0.9
        with pytest.raises(RefusedError, match="published_cosine"):
            published.refresh()
        assert published.epoch.number == 1


def test_the_model_may_lie_elsewhere(tmp_path: Path) -> None:
    model = Path(shutil.copytree(minilm_path(), tmp_path / "model"))
    given = settings(tmp_path, model={"name": str(model)})
    write(tmp_path / "corpus" / "a.parquet", words(10))
    run_here(given)
    moved = Path(shutil.move(model, tmp_path / "moved"))
    with fake_readers():
        with pytest.raises(SettingsError, match=r"model\.name"):
            open_reader(given).embed(QUERIES[:1])
        assert own(open_reader(given, model=str(moved)), QUERIES[3]) == "doc-00003"
        (moved / "config.json").write_text((moved / "config.json").read_text(encoding="utf-8") + " ", encoding="utf-8")
        with pytest.raises(SettingsError, match="weights: index"):
            open_reader(given, model=str(moved)).embed(QUERIES[:1])


def test_who_waits_when_a_reader_is_closed_gets_an_error(given: Settings) -> None:
    with fake_readers(seconds_per_token=0.002), ThreadPoolExecutor(4) as threads:
        published = open_reader(given)
        published.embed(QUERIES[:1])
        asked = [threads.submit(published.embed, QUERIES) for _ in range(4)]
        threading.Event().wait(0.1)
        published.close()
        errors = [answer.exception() for answer in asked]
    assert all(error is None or "closed" in str(error) for error in errors)
    assert any(isinstance(error, IndexerError) for error in errors)


def tags(given: Settings) -> list[str]:
    """Names of readers' tags on the tables."""
    return [tag.stem for tag in Path(given.index.uri).glob("*.lance/_refs/tags/reader-*")]


def test_empty_batches_need_no_engine(given: Settings, engines: list[CountedEngine]) -> None:
    with open_reader(given) as published:
        assert np.shape(published.embed([])) == (0, 384)
        assert published.search([]) == []
    assert len(engines) <= 1
