"""What others do to tables and control files: nothing of it is published, and nothing of it stops a night for ever."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest

from indexer.errors import IndexerError, RefusedError, SettingsError
from indexer.publishing import history, publish
from indexer.search.published import open_published
from indexer.settings import Settings
from indexer.storage import cleanup, commits, vector_index
from indexer.storage.control import ControlStore
from tests.support.fakes import published_rows, quarantine, run_here, settings, words, write

pytestmark = pytest.mark.heavy

NAMES = ("docs_documents", "docs_d96", "docs_quarantine")
"""A table of every kind."""


def store(given: Settings) -> ControlStore:
    return ControlStore(given.index.uri, given.index.name)


def dataset(given: Settings, name: str) -> lance.LanceDataset:
    return lance.dataset(f"{given.index.uri}/{name}.lance")


def keys(count: int) -> list[tuple[str, int]]:
    return [(name, 0) for name, _ in sorted(words(count))]


def night(given: Settings, rows: list[tuple[str, str]], **how: Any) -> dict[str, Any]:
    write(Path(given.corpus.uri) / "a.parquet", rows)
    return run_here(given, **how)


def clean_up(given: Settings) -> None:
    """What LanceDB's routine clean-up comes to once everything is old."""
    for name in (*NAMES, "docs_d384"):
        table = dataset(given, name)
        table.cleanup_old_versions(timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False)


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """An index of one night: 30 documents."""
    given = settings(tmp_path)
    night(given, words(30))
    return given


def append(given: Settings, name: str) -> None:
    """Doubles the rows of a table."""
    found = dataset(given, name)
    lance.write_dataset(found.to_table(), found.uri, mode="append")


@pytest.mark.parametrize("step", ["commit", "maintain"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_astray_is_not_published(
    given: Settings, monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    place: Any = commits if step == "commit" else vector_index
    real, written = getattr(place, step), []

    def meddled(*arguments: Any) -> Any:
        done = real(*arguments)
        if arguments[1] == (name if step == "commit" else "docs_d96") and not written:
            written.append(name)
            append(given, name)
        return done

    rows = [*words(29), ("empty", " ")]
    with monkeypatch.context() as patch:
        patch.setattr(place, step, meddled)
        assert night(given, rows)["epoch"] == 2
    assert written
    assert [published_rows(given, width) for width in (384, 96)] == [keys(29)] * 2
    assert quarantine(given) == [("empty", "empty_text")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "meddle",
    [
        lambda table: table.add_columns({"extra": "'x'"}),
        lambda table: table.drop_columns(["content_hash"]),
        lambda table: table.alter_columns({"path": "content_hash", "rename": "renamed"}),
    ],
)
def test_other_columns_stop_no_night(given: Settings, name: str, meddle: Callable[[Any], object]) -> None:
    meddle(lancedb.connect(given.index.uri).open_table(name))
    assert night(given, [*words(32), ("empty", " ")])["indexed"] == 2
    assert published_rows(given, 96) == keys(32)
    assert quarantine(given) == [("empty", "empty_text")]


def test_clean_up_refuses_published_versions(given: Settings) -> None:
    night(given, words(31))
    for name in NAMES:
        table = lancedb.connect(given.index.uri).open_table(name)
        table.delete("true")
        with pytest.raises(RuntimeError, match="tagged"):
            table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
    clean_up(given)
    for epoch, count in ((1, 30), (2, 31)):
        assert open_published(given.index.uri, "docs", epoch=epoch).read(96, ["id"]).num_rows == count
    dataset(given, "docs_d96").tags.create("mine", store(given).epoch(1).versions()["docs_d96"])
    assert history.prune(given.index.uri, store(given), keep=1).epochs == [1]
    assert "mine" in dataset(given, "docs_d96").tags.list()
    assert len([tag for tag in dataset(given, "docs_d96").tags.list() if tag.startswith("indexer-")]) == 1


def test_shards_whose_files_are_gone_are_staged_again(given: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ControlStore, "put_intent", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            night(given, words(40))
    clean_up(given)
    assert run_here(given)["resumed_shards"] == 0
    assert published_rows(given, 384) == keys(40)


def test_an_intent_whose_files_are_gone_is_begun_again(given: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(publish, "_commit", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            night(given, words(40))
    clean_up(given)
    assert run_here(given)["indexed"] == 10
    assert published_rows(given, 384) == keys(40)


def test_an_index_that_cannot_be_read_is_built_again(given: Settings) -> None:
    for tag in dataset(given, "docs_d96").tags.list():
        dataset(given, "docs_d96").tags.delete(tag)
    dataset(given, "docs_d96").delete("true")
    clean_up(given)
    with pytest.raises(IndexerError, match="pruned or cleaned up"):
        open_published(given.index.uri, "docs").table(96)
    assert run_here(given)["indexed"] == 30
    assert published_rows(given, 96) == keys(30)
    assert run_here(given)["indexed"] == 0


def test_a_rebuild_can_be_forced(given: Settings) -> None:
    assert run_here(given, rebuild=True)["indexed"] == 0
    assert run_here(given, rebuild="always")["indexed"] == 30
    assert open_published(given.index.uri, "docs").epoch.generation == 2


def test_a_control_folder_that_is_gone_or_old_is_no_reason_to_publish_what_is_there(given: Settings) -> None:
    control = Path(given.index.uri) / "_docs"
    shutil.copytree(control, control.with_name("backup"))
    night(given, words(31, seed=1))
    shutil.rmtree(control)
    shutil.copytree(control.with_name("backup"), control)  # one epoch behind: the number of the next one is taken
    assert night(given, words(33))["epoch"] == 2
    assert published_rows(given, 96) == keys(33)
    night(given, words(34))
    night(given, words(35))
    shutil.rmtree(control)
    shutil.copytree(control.with_name("backup"), control)
    with pytest.raises(RefusedError, match=r"restore the newer folder, or build a new generation .* --rebuild always"):
        night(given, words(36))
    shutil.rmtree(control)
    with pytest.raises(RefusedError, match="--rebuild always"):
        night(given, words(36))
    assert night(given, words(36), rebuild="always")["indexed"] == 36
    assert published_rows(given, 96) == keys(36)


def test_an_epoch_published_meanwhile_is_not_published_again(given: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning deletes intents: a slow run may put one for an epoch that was published long ago."""
    real = ControlStore.put_intent

    def overtaken(self: ControlStore, intent: Any) -> Any:
        monkeypatch.setattr(ControlStore, "put_intent", real)
        night(given, words(32, seed=1))
        night(given, words(33, seed=1))
        history.prune(given.index.uri, self, keep=1)
        write(Path(given.corpus.uri) / "a.parquet", words(34))
        return real(self, intent)

    monkeypatch.setattr(ControlStore, "put_intent", overtaken)
    assert night(given, words(31))["epoch"] == 4
    assert published_rows(given, 96) == keys(34)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_somebody_else_is_left_alone(tmp_path: Path, name: str) -> None:
    given = settings(tmp_path)
    path = f"{given.index.uri}/{name}.lance"
    lance.write_dataset(pa.table({"mine": [1, 2]}), path)
    with pytest.raises(SettingsError, match=f"table {name} exists and was not made by this program"):
        night(given, words(5))
    assert lance.dataset(path).to_table().column_names == ["mine"]
    assert [found.name for found in Path(given.index.uri).glob("*.lance")] == [f"{name}.lance"], "nothing else is made"


def test_an_index_named_like_a_generation_is_another_one(given: Settings, tmp_path: Path) -> None:
    other = settings(tmp_path, index={"name": "docs_g2"})
    night(other, words(30))
    assert night(given, words(30), rebuild="always")["indexed"] == 30
    assert open_published(given.index.uri, "docs").epoch.generation == 3
    history.prune(given.index.uri, store(given), keep=1)
    assert published_rows(other, 96) == published_rows(given, 96) == keys(30)
    third = settings(tmp_path, index={"name": "docs_g3"})
    with pytest.raises(SettingsError, match="is a table of 'docs'"):
        night(third, words(30))


def test_a_prune_takes_no_table_that_another_index_has_under_a_name_of_old(given: Settings, tmp_path: Path) -> None:
    """The name was free for a while: somebody had deleted the table."""
    other = settings(tmp_path, index={"name": "docs_g2", "widths": [384]})
    assert night(given, words(31), rebuild="always")["indexed"] == 31
    for path in Path(given.index.uri).glob("docs_g2_*.lance"):
        shutil.rmtree(path)
    night(other, words(31))
    night(other, words(32))
    versions = lance.dataset(f"{other.index.uri}/docs_g2_d384.lance").versions()
    for keep in (3, 1):
        history.prune(given.index.uri, store(given), keep)
    assert lance.dataset(f"{other.index.uri}/docs_g2_d384.lance").versions() == versions
    assert published_rows(other, 384) == keys(32)


FOREIGN = (".DS_Store", ".nfs0001", "README", "000000000001 (conflicted copy).json", "notes.json", b"bad\xff.json")


def test_files_of_others_in_the_control_folder_are_passed_over(given: Settings) -> None:
    for folder in ("", "epochs", "intents", "receipts", "receipts/000000000001", "digests", "quarantine", "removals"):
        parent = Path(given.index.uri) / "_docs" / folder
        parent.mkdir(exist_ok=True, parents=True)
        for name in FOREIGN:
            path = (
                parent / name if isinstance(name, str) else Path(str(parent)) / name.decode("utf-8", "surrogateescape")
            )
            path.write_bytes(b"foreign")
    assert night(given, words(31))["indexed"] == 1
    assert history.prune(given.index.uri, store(given), keep=1).epochs == [1]
    assert published_rows(given, 96) == keys(31)
    assert run_here(given)["epoch"] == 2


@pytest.mark.parametrize("content", [b"", bytes(200), b'{"number": 2'])
@pytest.mark.parametrize("kind", ["epochs", "intents", "receipts"])
def test_damaged_control_files_stop_nothing(
    given: Settings, capfd: pytest.CaptureFixture[str], kind: str, content: bytes
) -> None:
    night(given, words(31))
    folder = Path(given.index.uri) / "_docs" / kind
    damaged = max(path for path in folder.rglob("*.json") if "000000000002" in str(path))
    damaged.write_bytes(content)
    if kind == "epochs":
        assert open_published(given.index.uri, "docs").epoch.number == 1
        if content:
            assert "epochs/000000000002.json is damaged" in capfd.readouterr().err
    night(given, words(32))
    assert published_rows(given, 96) == keys(32)
    history.prune(given.index.uri, store(given), keep=1)
    assert published_rows(given, 96) == keys(32)


def test_a_prune_killed_anywhere_lists_nothing_that_cannot_be_opened(
    given: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (31, 32):
        night(given, words(count))
    real, calls = cleanup.prune, []

    def killed(*arguments: Any) -> Any:
        calls.append(arguments)
        return real(*arguments) if len(calls) < 2 else pytest.fail("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(cleanup, "prune", killed)
        with pytest.raises(pytest.fail.Exception):
            history.prune(given.index.uri, store(given), keep=1)
    listed = [entry["epoch"] for entry in history.epochs(store(given))]
    assert listed == [3]
    assert published_rows(given, 384) == keys(32)
    assert history.prune(given.index.uri, store(given), keep=1).versions > 0


def test_a_rollback_beside_a_prune_is_refused_or_can_be_read(given: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    night(given, words(31))
    real = history.protect

    def pruned(*arguments: Any) -> None:
        real(*arguments)
        history.prune(given.index.uri, store(given), keep=1)

    with monkeypatch.context() as patch:
        patch.setattr(history, "protect", pruned)
        with pytest.raises(SettingsError, match="there is no epoch 1"):
            history.rollback(given.index.uri, store(given), 1)
    assert published_rows(given, 96) == keys(31)


def test_a_rollback_holds_until_it_is_resumed(given: Settings) -> None:
    night(given, [*words(31), ("empty", " ")])
    epoch = history.rollback(given.index.uri, store(given), 2, hold=True)
    assert store(given).quarantine(epoch)["id"].to_pylist() == ["empty"]
    listed = history.epochs(store(given))[-1]
    assert (listed["held"], listed["rollback_of"], listed["new"], listed["indexed"]) == (True, 2, 0, 0)
    with pytest.raises(RefusedError, match=r"rollback to epoch 2 holds the index at epoch 3.*resume"):
        night(given, words(33))
    assert history.resume(store(given)).number == 3
    assert history.epochs(store(given))[-1]["held"] is False
    assert night(given, words(33))["indexed"] == 2
    with pytest.raises(SettingsError, match="not held"):
        history.resume(store(given))


def test_digests_of_files_that_are_gone_are_pruned(given: Settings) -> None:
    for seed in range(1, 4):
        night(given, words(30, seed=seed))
    assert len(store(given).digests.names()) == 4
    history.prune(given.index.uri, store(given), keep=1)
    assert len(store(given).digests.names()) == 1
    assert run_here(given)["indexed"] == 0


def test_looking_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no epoch"):
        open_published(str(tmp_path / "typo"), "docs")
    assert history.epochs(ControlStore(str(tmp_path / "typo"), "docs")) == []
    assert not (tmp_path / "typo").exists()


def test_a_filter_that_matches_nothing_gives_no_hits(given: Settings) -> None:
    vectors = np.ones((2, 384), np.float32)
    found = open_published(given.index.uri, "docs").nearest(vectors, 3, 96, "kind = 'nothing'", oversample=4)
    assert found == [[], []]
