"""An epoch that is read is not pruned: tags that prune and Lance's clean-up respect, and that end with their reader."""

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import lance
import pytest

from indexer.errors import IndexerError
from indexer.publishing import history
from indexer.search import epoch_lease, published
from indexer.search.epoch_lease import EpochLease
from indexer.search.published import Published
from indexer.settings import Settings
from indexer.storage import reader_tags, tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch
from tests.support.fakes import run_here, settings, words, write
from tests.support.readers import open_reader

pytestmark = pytest.mark.heavy

SEEDS = (1, 2)


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """An index of 20 documents."""
    given = settings(tmp_path)
    night(given, 0)
    return given


def night(given: Settings, seed: int) -> None:
    write(Path(given.corpus.uri) / "a.parquet", words(20, seed=seed))
    run_here(given)


def store(given: Settings) -> ControlStore:
    return ControlStore(given.index.uri, given.index.name)


def prune(given: Settings) -> history.Pruned:
    return history.prune(given.index.uri, store(given), keep=1)


def clean_up(given: Settings) -> None:
    """What other programs may do."""
    for path in Path(given.index.uri).glob("*.lance"):
        lance.dataset(str(path)).cleanup_old_versions(
            older_than=timedelta(0), delete_unverified=False, error_if_tagged_old_versions=False
        )


def rows(reader: Published) -> int:
    return reader.read(96).num_rows + reader.read(384).num_rows + reader.quarantine().num_rows


def can_be_read(given: Settings, epoch: Epoch) -> bool:
    """Whether every version of an epoch is there; some of them only would be a fault."""
    (found,) = {tables.has_version(given.index.uri, name, version) for name, version in epoch.versions().items()}
    return found


def test_an_epoch_is_kept_while_it_is_read_and_no_longer(given: Settings) -> None:
    reader = open_reader(given)
    for seed in SEEDS:
        night(given, seed)
    assert prune(given).epochs == [1, 2]
    clean_up(given)
    assert rows(reader) == 40
    again = prune(given)
    assert (again.versions, again.readers) == (0, 1)
    old = reader.snapshot
    assert reader.refresh()
    assert old.read(96).num_rows == 20
    del old
    gc.collect()
    last = prune(given)
    assert last.versions > 0
    assert last.readers == 0
    assert rows(reader) == 40
    reader.close()
    assert not list(Path(given.index.uri).glob("*.lance/_refs/tags/reader-*"))


def test_tables_of_an_old_generation_are_kept_too(given: Settings, tmp_path: Path) -> None:
    narrow = settings(tmp_path, index={"widths": [384, 64]})
    with open_reader(given) as reader:
        run_here(narrow, rebuild="always")
        pruned = prune(narrow)
        assert (pruned.tables, pruned.readers) == (0, 1)
        clean_up(narrow)
        assert rows(reader) == 40
    assert prune(narrow).tables == 4


def test_the_tag_of_a_killed_reader_ends(given: Settings) -> None:
    epoch = store(given).epoch(1)
    for ends in (time.time() - 1, time.time() + 3600):
        reader_tags.hold(given.index.uri, epoch.versions(), reader_tags.name_tag("1-host.example-7", ends))
    night(given, 1)
    prune(given)
    assert can_be_read(given, epoch)
    kept = [tag.stem for tag in Path(given.index.uri).glob("docs_d96.lance/_refs/tags/reader-*")]
    assert len(kept) == 1
    reader_tags.let_go(given.index.uri, epoch.versions(), kept[0])
    prune(given)
    assert not can_be_read(given, epoch)


def test_a_lease_is_renewed(given: Settings) -> None:
    epoch = store(given).epoch(1)
    lease = EpochLease(given.index.uri, epoch, seconds=2)
    night(given, 1)
    threading.Event().wait(3.1)
    prune(given)
    assert can_be_read(given, epoch)
    assert len(list(Path(given.index.uri).glob("docs_d96.lance/_refs/tags/reader-*"))) == 1
    lease.release()
    assert not lease.is_held
    prune(given)
    assert not can_be_read(given, epoch)


def test_a_prune_between_the_look_and_the_tags_gives_the_next_epoch(
    given: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order, the reader has an epoch that can be read."""

    def overtaken(seed: int) -> Callable[..., EpochLease]:
        def hold(*arguments: object) -> EpochLease:
            monkeypatch.setattr(published, "EpochLease", EpochLease)
            night(given, seed)
            prune(given)
            return EpochLease(*arguments)  # type: ignore[arg-type]

        return hold

    monkeypatch.setattr(published, "EpochLease", overtaken(1))
    with open_reader(given) as reader:
        assert reader.epoch.number == 2
        assert rows(reader) == 40
    monkeypatch.setattr(published, "EpochLease", overtaken(2))
    with pytest.raises(IndexerError, match=r"epochs/000000000002"):
        open_reader(given, epoch=2)


def test_an_index_that_cannot_be_written_is_read(
    given: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise IndexerError("permission denied")

    monkeypatch.setattr(epoch_lease.reader_tags, "hold", refuse)
    with open_reader(given) as reader:
        assert rows(reader) == 40
    assert "epoch 1 is read without protection from pruning: permission denied" in capfd.readouterr().err


def test_readers_that_come_and_go_disturb_no_prune(given: Settings) -> None:
    """Lance lists the tags' names and then reads each: one deleted in between must end neither prune nor night."""
    versions, done = store(given).epoch(1).versions(), threading.Event()

    def come_and_go(reader: int) -> int:
        rounds = 0
        while not done.is_set():
            rounds += 1
            names = [reader_tags.name_tag(f"{reader}-{rounds}-{at}", time.time() + 60) for at in range(10)]
            for act in (reader_tags.hold, reader_tags.let_go):
                for name in names:
                    act(given.index.uri, versions, name)
        return rounds

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(come_and_go, reader) for reader in range(2)]
        try:
            for _ in range(40):
                prune(given)
        finally:
            done.set()
        assert min(reader.result() for reader in readers) > 0
