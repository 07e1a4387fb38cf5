"""Tables that somebody deleted or restored: runs and prunes go on, without Ray and with the fake engine."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import IndexerError, RefusedError
from indexer.publishing import history, publish
from indexer.publishing.condition import missing_tables
from indexer.search.published import open_published
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.storage.tables import open_version
from indexer.storage.tags import tagged
from tests.support.fakes import published_rows, run_here, settings, words, write

pytestmark = pytest.mark.heavy


def night(given: Settings, root: Path, count: int) -> int:
    """Indexes so many documents and gives the epoch."""
    write(root / "corpus" / "a.parquet", words(count))
    return int(run_here(given)["epoch"])


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_prune_keeps_epochs_of_which_a_table_is_gone(tmp_path: Path) -> None:
    given = settings(tmp_path)
    night(given, tmp_path, 20)
    night(given, tmp_path, 22)
    shutil.rmtree(tmp_path / "index" / "docs_d96.lance")
    night(given, tmp_path, 24)
    store = ControlStore(given.index.uri, "docs")
    assert history.prune(given.index.uri, store, keep=2).epochs == [1]
    assert store.epoch_numbers() == [2, 3]
    assert len(published_rows(given, 96)) == 24
    history.prune(given.index.uri, store, keep=1)
    assert not (tmp_path / "index" / "docs_d384.lance").exists()
    assert len(open_published(given.index.uri, "docs").read(384, ["id"])) == 24


@pytest.mark.parametrize("name", ["docs_d384", "docs_d96", "docs_documents", "docs_quarantine"])
def test_an_epoch_of_which_a_file_is_gone_is_built_again(tmp_path: Path, name: str) -> None:
    """As a prune leaves it that was killed, when a backup of the control folder is restored afterwards."""
    given = settings(tmp_path)
    write(tmp_path / "corpus" / "b.parquet", [("empty", "")])
    night(given, tmp_path, 20)
    for path in (tmp_path / "index" / f"{name}.lance" / "data").iterdir():
        path.unlink()
    published = open_published(given.index.uri, "docs")
    with pytest.raises(IndexerError, match=rf"table {name} cannot be read at version \d+: "):
        published.quarantine() if name == "docs_quarantine" else published.read(96 if "96" in name else 384)
    assert night(given, tmp_path, 20) == 2
    assert published_rows(given, 96) == published_rows(given, 384) == sorted((key, 0) for key, _ in words(20))
    assert open_published(given.index.uri, "docs").quarantine().num_rows == 1


def test_a_prune_releases_old_generations_of_tags_that_no_epoch_has(tmp_path: Path) -> None:
    given = settings(tmp_path)
    night(given, tmp_path, 20)
    night(given, tmp_path, 22)
    store = ControlStore(given.index.uri, "docs")
    first = store.epoch(2)
    # A rollback was killed after it had set its tags: its number went to a rebuild.
    table = first.tables[0]
    open_version(given.index.uri, table.name, 2).tags.create("indexer-000000000003-2", 2)
    run_here(given, rebuild="always")
    history.prune(given.index.uri, store, keep=2)
    assert tagged(open_version(given.index.uri, table.name, table.version)) == {table.version}


def test_a_version_of_a_restored_table_is_not_the_epochs_because_of_its_number(tmp_path: Path) -> None:
    given = settings(tmp_path)
    night(given, tmp_path, 20)
    index = tmp_path / "index"
    shutil.copytree(index, tmp_path / "backup")
    shutil.rmtree(index)
    night(given, tmp_path, 22)
    store = ControlStore(given.index.uri, "docs")
    for table in store.epoch(1).versions():
        shutil.rmtree(index / f"{table}.lance")
        shutil.copytree(tmp_path / "backup" / f"{table}.lance", index / f"{table}.lance")
    assert store.epoch(1).versions().keys() == set(missing_tables(given.index.uri, store.epoch(1)))
    assert night(given, tmp_path, 22) == 2
    assert len(published_rows(given, 96)) == 22


def test_an_epoch_that_was_begun_is_begun_again_when_a_table_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tmp_path)
    night(given, tmp_path, 20)
    with monkeypatch.context() as patched:
        patched.setattr(publish, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            night(given, tmp_path, 22)
    shutil.rmtree(tmp_path / "index" / "docs_d96.lance")
    assert night(given, tmp_path, 22) == 2
    assert len(published_rows(given, 96)) == 22


def test_a_prune_takes_no_generation_that_a_rollback_is_returning_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tmp_path)
    night(given, tmp_path, 20)
    run_here(given, rebuild="always")
    store = ControlStore(given.index.uri, "docs")
    put_quarantine = ControlStore.put_quarantine

    def put_beside(self: ControlStore, *arguments: Any) -> None:
        history.prune(given.index.uri, store, keep=1)
        put_quarantine(self, *arguments)

    monkeypatch.setattr(ControlStore, "put_quarantine", put_beside)
    assert history.rollback(given.index.uri, store, 1).number == 3
    assert len(published_rows(given, 96)) == 20
    assert len(store.digests.get_list(str(store.epoch(3).description.files))) == 1


def test_an_older_control_folder_with_a_begun_epoch_has_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tmp_path)
    night(given, tmp_path, 20)
    control = tmp_path / "index" / "_docs"
    with monkeypatch.context() as patched:
        patched.setattr(publish, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            night(given, tmp_path, 22)
    shutil.copytree(control, tmp_path / "backup")
    assert [night(given, tmp_path, count) for count in (22, 24)] == [2, 3]
    shutil.rmtree(control)
    shutil.copytree(tmp_path / "backup", control)
    with pytest.raises(RefusedError, match=r"restored from an older backup.*--rebuild always"):
        night(given, tmp_path, 24)
    assert run_here(given, rebuild="always")["epoch"] == 2
    assert len(published_rows(given, 96)) == 24
