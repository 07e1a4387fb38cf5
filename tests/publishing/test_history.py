"""Epochs after the fact, and generations, on real Ray and real tables with the fake engine."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import IndexerError, RefusedError, SettingsError
from indexer.indexing import plan as indexing_plan
from indexer.indexing import run as night_run
from indexer.inference import checkpoint
from indexer.publishing import history, publish
from indexer.search.published import open_published
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.testing.checkpoints import minilm_path
from tests.support.fakes import published_rows, published_vectors, run_here, settings, words, write

pytestmark = pytest.mark.heavy


def store(given: Settings) -> ControlStore:
    return ControlStore(given.index.uri, given.index.name)


def night(given: Settings, root: Path, rows: list[tuple[str, str]]) -> dict[str, Any]:
    write(root / "corpus" / "a.parquet", rows)
    return run_here(given)


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """An index of two nights: 60 documents, then 10 of them changed."""
    given = settings(tmp_path)
    night(given, tmp_path, words(60))
    night(given, tmp_path, [*words(10, seed=1), *words(60)[10:]])
    return given


def ids(given: Settings, epoch: int) -> list[str]:
    table = open_published(given.index.uri, "docs", epoch=epoch).read(96, ["id"])
    return sorted(table["id"].to_pylist())


def test_a_rollback_is_a_new_epoch_with_the_old_tables(given: Settings, tmp_path: Path) -> None:
    first = store(given).epoch(1)
    published = history.rollback(given.index.uri, store(given), 1)
    assert (published.number, published.versions()) == (3, first.versions())
    again = night(given, tmp_path, [*words(10, seed=1), *words(60)[10:]])
    assert (again["epoch"], again["changed"], again["indexed"]) == (4, 10, 10)
    listed = history.epochs(store(given))
    assert [entry["epoch"] for entry in listed] == [1, 2, 3, 4]
    assert [entry["rollback_of"] for entry in listed] == [None, None, 1, None]
    with pytest.raises(SettingsError, match="there is no epoch 9; there are 1, 2, 3, 4"):
        history.rollback(given.index.uri, store(given), 9)


def test_a_rollback_gives_up_an_unfinished_epoch(
    given: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RefusedError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(night_run, "enforce", lambda *_: None)
        patch.setattr(publish, "enforce", refuse)
        with pytest.raises(RefusedError):
            night(given, tmp_path, words(30))
    assert store(given).pending_intent() is not None
    history.rollback(given.index.uri, store(given), 2)
    assert store(given).pending_intent() is None
    assert night(given, tmp_path, [*words(10, seed=1), *words(60)[10:], ("new", "one")])["indexed"] == 1
    assert len(ids(given, 4)) == 61


def test_pruning_frees_what_only_old_epochs_need(given: Settings, tmp_path: Path) -> None:
    for seed in (2, 3):
        night(given, tmp_path, words(60, seed=seed))
    kept = {epoch: ids(given, epoch) for epoch in (3, 4)}
    staged = next((Path(given.index.uri) / "docs_d96.lance" / "data").glob("*.lance"))
    unreceipted = staged.with_name("0" * 40 + ".lance")
    unreceipted.write_bytes(staged.read_bytes())
    size = _size(given)
    pruned = history.prune(given.index.uri, store(given), keep=2)
    assert pruned.epochs == [1, 2]
    assert pruned.versions > 0
    assert size - _size(given) >= pruned.bytes > 0
    assert unreceipted.exists(), "a worker may be writing it"
    assert {epoch: ids(given, epoch) for epoch in (3, 4)} == kept
    with pytest.raises(IndexerError):
        ids(given, 1)
    with pytest.raises(SettingsError):
        history.rollback(given.index.uri, store(given), 1)
    assert run_here(given)["indexed"] == 0
    assert night(given, tmp_path, words(61, seed=3))["indexed"] == 1
    again = history.prune(given.index.uri, store(given), keep=5)
    assert (again.epochs, again.tables) == ([], 0)


def test_staged_orphans_of_closed_epochs_are_pruned(
    given: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that staged and never published; the corpus then went back to what it was."""
    with monkeypatch.context() as patch:
        patch.setattr(ControlStore, "put_intent", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            night(given, tmp_path, words(60, seed=7))
    night(given, tmp_path, words(60))
    pruned = history.prune(given.index.uri, store(given), keep=2)
    assert pruned.orphans >= 2
    assert len(ids(given, 3)) == 60


@pytest.mark.slow
def test_pruning_beside_running_nights_takes_nothing_they_need(given: Settings, tmp_path: Path) -> None:
    done = threading.Event()

    def prunes() -> int:
        forgotten = 0
        while not done.is_set():
            forgotten += len(history.prune(given.index.uri, store(given), keep=1).epochs)
        return forgotten

    with ThreadPoolExecutor(1) as beside:
        pruning = beside.submit(prunes)
        try:
            for seed in range(2, 6):
                changed = [*words(10 * seed, seed=seed), *words(60)[10 * seed :]]
                assert night(given, tmp_path, changed)["documents"] == 60
        finally:
            done.set()
    assert pruning.result() >= 4
    assert published_rows(given, 96) == sorted((name, 0) for name, _ in words(60))
    assert all(np.isfinite(vector).all() for vector in published_vectors(given, 384).values())


def test_other_query_models_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    model = Path(shutil.copytree(minilm_path(), tmp_path / "model"))
    given = settings(tmp_path, model={"name": str(model)})
    night(given, tmp_path, words(5))
    published = open_published(given.index.uri, "docs")
    theirs = published.model.fingerprint["weights"]
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"changed": True}), encoding="utf-8")
    with pytest.raises(SettingsError, match="weights: index") as refused:
        _ = open_published(given.index.uri, "docs").model
    ours = checkpoint.resolve(str(model), None).digest
    assert ours != theirs
    assert f"weights: index {theirs}, query model {ours}" in str(refused.value)


def test_a_changed_fingerprint_builds_a_new_generation_beside_the_old(given: Settings, tmp_path: Path) -> None:
    changed = settings(tmp_path, model={"max_tokens": 64}, index={"widths": [384, 64]})
    with pytest.raises(
        SettingsError, match=r"model\.max_tokens \(published: 128, asked: 64\), index\.widths \(.*\); .* --rebuild"
    ):
        run_here(changed)
    plan = indexing_plan.plan(changed, rebuild=True)
    assert (plan["to_embed"], plan["epoch"]) == (60, 3)
    summary = run_here(changed, rebuild=True)
    assert (summary["epoch"], summary["indexed"], summary["deleted"]) == (3, 60, 0)
    assert [table["name"] for table in summary["tables"]] == ["docs_g2_d384", "docs_g2_d64"]
    assert len(ids(given, 2)) == 60
    assert len(published_rows(changed, 64)) == 60
    assert run_here(changed, rebuild=True)["indexed"] == 0
    pruned = history.prune(given.index.uri, store(given), keep=1)
    assert pruned.tables == 4
    assert not list(Path(given.index.uri).glob("docs_d*.lance/data/*"))
    assert len(published_rows(changed, 64)) == 60


def test_a_rebuild_that_was_given_up_is_not_built_upon(
    given: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables hold a committed change that no epoch publishes."""
    changed = settings(tmp_path, model={"max_tokens": 64}, index={"widths": [384, 64]})
    with monkeypatch.context() as patch:
        patch.setattr(ControlStore, "put_epoch", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            run_here(changed, rebuild=True)
    history.rollback(given.index.uri, store(given), 2)
    summary = run_here(changed, rebuild=True)
    assert [table["name"] for table in summary["tables"]] == ["docs_g3_d384", "docs_g3_d64"]
    assert len(published_rows(changed, 64)) == 60
    history.prune(given.index.uri, store(given), keep=1)
    assert not list(Path(given.index.uri).glob("docs_g2_*.lance"))
    assert len(published_rows(changed, 64)) == 60


@pytest.mark.usefixtures("given")
def test_a_rebuild_has_the_brake_too(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(30))
    changed = settings(tmp_path, model={"max_tokens": 64}, index={"widths": [384, 64]})
    with pytest.raises(RefusedError, match=r"gates\.max_removed is 0\.5, allowed 0\.2"):
        run_here(changed, rebuild=True)
    allowed = settings(tmp_path, model={"max_tokens": 64}, index={"widths": [384, 64]}, gates={"max_removed": 0.5})
    assert run_here(allowed, rebuild=True)["indexed"] == 30


def test_another_query_instruction_is_published_and_embeds_nothing(given: Settings, tmp_path: Path) -> None:
    asking = settings(tmp_path, model={"query_instruction": "Find the document"})
    summary = run_here(asking, exits_on=101)
    assert (summary["epoch"], summary["indexed"], summary["unchanged"]) == (3, 0, 60)
    published = open_published(given.index.uri, "docs")
    assert published.epoch.description.model.query_instruction == "Find the document"
    assert len(published_rows(asking, 96)) == 60
    assert run_here(asking)["epoch"] == 3


def test_a_plan_estimates_the_night(given: Settings, tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", [*words(20, seed=5), *words(60)[25:], ("new", "a document")])
    plan = indexing_plan.plan(given)
    assert [plan[name] for name in ("new", "changed", "deleted", "unchanged")] == [1, 20, 5, 35]
    assert plan["estimated_seconds"] is not None
    epoch = ControlStore(given.index.uri, "docs").latest_epoch()
    assert epoch is not None
    assert plan["table_bytes"] == {table.name: table.bytes for table in epoch.searched}
    assert list(plan["table_bytes"]) == ["docs_d384", "docs_d96", "docs_documents"]
    assert plan["vector_bytes"] == {"docs_d384": 21 * 384 * 4, "docs_d96": 21 * 96 * 4}, "of the chunks left to embed"
    told = indexing_plan.in_words(plan)
    assert "vectors    docs_d384 0.0 MB, docs_d96 0.0 MB of what is embedded\ntables     docs_d384 " in told


def _size(given: Settings) -> int:
    return sum(file.stat().st_size for file in Path(given.index.uri).rglob("*") if file.is_file())
