"""An index that version 4d2741a made is read, finished, resumed, continued, rolled back and pruned.

Commit 4d2741a indexed three nights of one corpus with real Ray and all-MiniLM-L6-v2 in float32:

1. everything is new; one document is empty and one has no tokens, which only a worker can tell;
2. some documents are new, changed (one in its payload alone), gone, and one has only another id;
3. half of the documents change. The run is interrupted after its first shard (``resumable``); the same command again
   resumes, and is interrupted between the commits of its first and its second table: intent 3 is pending, and one of
   three tables is committed (``pending``).

The archive has the corpus of the third night and the index in both states, the JSON file what the old code said: its
settings, summaries, fingerprint, receipts, and of every epoch the documents, chunks, digests and quarantine. Epoch 3 is
what the old code made of ``pending``. Only the resumed run has a real engine, to compare vectors with the old ones.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.corpus.documents import open_corpus
from indexer.errors import IndexerError
from indexer.indexing import run as indexing_run
from indexer.publishing import history
from indexer.search.published import Published, open_published
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.testing.checkpoints import minilm_path
from tests.support import fakes
from tests.support.local_cluster import LocalCluster

pytestmark = pytest.mark.heavy

ARCHIVE = Path(__file__).resolve().with_name("made-by-4d2741a.tar.xz")
MADE: dict[str, Any] = json.loads(ARCHIVE.with_name("made-by-4d2741a.json").read_text(encoding="utf-8"))
ROOT = Path(MADE["settings"]["corpus"]["uri"]).parent
STATES = ("resumable", "pending")
WIDTHS = (384, 96)
LEAST_COSINE = 0.99999
"""Of vectors in float32: other batches and other processors round otherwise."""


@pytest.fixture(scope="module", autouse=True)
def place() -> Iterator[None]:
    """Where the corpus lay: its files are known by their paths, so that test runs of a machine take turns."""
    ROOT.mkdir(exist_ok=True)
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    (ROOT / "model").unlink(missing_ok=True)
    (ROOT / "model").symlink_to(minilm_path())
    yield
    (ROOT / "model").unlink()
    shutil.rmtree(ROOT / "corpus", ignore_errors=True)
    os.close(folder)


def unpack(state: str, folder: Path, days: float = 0) -> Settings:
    """Puts the corpus where it lay, as old as it was, and an index into a folder, all of it some days old.

    Returns:
        The settings that made them.
    """
    shutil.rmtree(ROOT / "corpus", ignore_errors=True)
    with tarfile.open(ARCHIVE) as archive:
        for name, target in (("corpus", ROOT), (state, folder)):
            members = [member for member in archive if member.name.startswith(f"{name}/")]
            archive.extractall(target, members, filter="data")
    then = time.time() - days * 86_400
    for path in (folder / state).rglob("*"):
        os.utime(path, (then, then))
    index = MADE["settings"]["index"] | {"uri": str(folder / state)}
    return Settings(**MADE["settings"] | {"index": index})


def unjudged(given: Settings) -> Settings:
    """The settings for a fake engine, which does not give the vectors of the model that is published."""
    return given.model_copy(update={"gates": given.gates.model_copy(update={"published_cosine": -1.0})})


def store(given: Settings) -> ControlStore:
    return ControlStore(given.index.uri, given.index.name)


def published(given: Settings, epoch: int | None = None) -> Published:
    return open_published(given.index.uri, given.index.name, epoch=epoch)


def rows(given: Settings, epoch: int | None = None, width: int = WIDTHS[0]) -> pa.Table:
    return published(given, epoch).read(width).sort_by([("id", "ascending"), ("chunk", "ascending")])


def vectors(table: pa.Table) -> np.ndarray:
    return np.array(table["vector"].to_pylist(), "<f4")


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def rows_digest(table: pa.Table) -> str:
    known = table.drop_columns("vector")
    return digest(repr([known.schema.names, *known.to_pylist()]).encode())


def contents(given: Settings, epoch: int | None = None) -> dict[str, Any]:
    """What an epoch holds, as it was recorded of the old version."""
    tables = {width: rows(given, epoch, width) for width in WIDTHS}
    (known,) = {rows_digest(table) for table in tables.values()}
    refused = published(given, epoch).quarantine().sort_by("id")
    return {
        "keys": keys(tables[WIDTHS[0]]),
        "rows": known,
        "vectors": {str(width): digest(vectors(table).tobytes()) for width, table in tables.items()},
        "quarantine": refused.select(["id", "file", "row", "reason", "detail"]).to_pylist(),
    }


def recorded(epoch: int) -> dict[str, Any]:
    known = MADE["epochs"][str(epoch)]
    return {
        "keys": [(name, chunk) for name, chunks in known["chunks"].items() for chunk in range(chunks)],
        "rows": known["rows_digest"],
        "vectors": known["vectors_digest"],
        "quarantine": known["quarantine"],
    }


def keys(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(table["id"].to_pylist(), table["chunk"].to_pylist(), strict=True))


def corpus_texts() -> dict[str, str]:
    parts = [pq.read_table(path) for path in sorted((ROOT / "corpus").rglob("*.parquet"))]
    table = pa.concat_tables(parts)
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def test_the_corpus_is_the_one_the_old_version_saw(tmp_path: Path) -> None:
    """Else every test below would show less than it says."""
    given = unpack("pending", tmp_path)
    assert open_corpus(given.corpus).digest == MADE["epochs"]["3"]["corpus"]
    texts = corpus_texts()
    assert {name: texts[name] for name in texts if name not in {"blank", "invisible"}} == MADE["epochs"]["3"][
        "documents"
    ]


@pytest.mark.parametrize("state", STATES)
def test_epochs_are_read(state: str, tmp_path: Path) -> None:
    """Although one table of the pending epoch is committed already."""
    given = unpack(state, tmp_path)
    assert published(given).epoch.number == 2
    for epoch in (1, 2):
        assert contents(given, epoch) == recorded(epoch)
        assert published(given, epoch).epoch.description.corpus == MADE["epochs"][str(epoch)]["corpus"]
    assert [(listed["epoch"], listed["indexed"]) for listed in history.epochs(store(given))] == [
        (number, MADE["runs"][f"night {number}"]["indexed"]) for number in (1, 2)
    ]


def test_old_vectors_are_searched_with_the_model_of_now(tmp_path: Path) -> None:
    """The fingerprint is the same, and stored vectors find themselves."""
    given = unpack("resumable", tmp_path)
    index = published(given)
    assert index.model.fingerprint == MADE["fingerprint"] == index.epoch.description.fingerprint
    table = rows(given)
    found = index.nearest(vectors(table), k=1)
    assert [(hits[0].id, hits[0].chunk) for hits in found] == keys(table)
    assert min(hits[0].score for hits in found) > LEAST_COSINE


def test_a_pending_epoch_is_finished(tmp_path: Path) -> None:
    given = unpack("pending", tmp_path)
    pending = store(given).pending_intent()
    assert pending is not None
    assert pending.epoch == 3
    summary = fakes.run_here(given)
    before = MADE["runs"]["night 3, the interrupted one again"]
    same = ("epoch", "documents", "indexed", "quarantined", "quarantine_reasons")
    assert {name: summary[name] for name in same} == {name: before[name] for name in same}
    assert store(given).pending_intent() is None
    assert [contents(given, epoch) for epoch in (1, 2, 3)] == [recorded(epoch) for epoch in (1, 2, 3)]
    assert store(given).digests.names() > set(MADE["digest_names"]), "digests of that version hold less: read once"
    assert fakes.run_here(given)["epoch"] == 3


def _index(given: Settings) -> dict[str, Any]:
    """Indexes in a process for vLLM."""
    return indexing_run.run(given, cluster=LocalCluster())


def test_staged_shards_are_resumed(tmp_path: Path, engine_process: Executor) -> None:
    """Its shards have other names now: they are embedded again and never mixed, and give what the old version made."""
    given = unpack("resumable", tmp_path)
    staged = MADE["interrupted"]["resumable"]["receipts"]
    assert store(given).receipts(3).ids() == staged.keys()
    summary = engine_process.submit(_index, given).result()
    before = MADE["interrupted"]["pending"]["run"]
    assert before["resumed_shards"] == sum(receipt["tokens"] > 0 for receipt in staged.values()) > 0
    others = {"tokens_per_second", "resumed_shards", "resumed_tokens"}
    assert {name: summary[name] for name in before if name not in others} == {
        name: before[name] for name in before if name not in others
    }
    assert summary["resumed_shards"] == 0
    counts = ("new", "changed", "unchanged", "deleted", "moved")
    assert {name: summary[name] for name in counts} == {
        name: MADE["interrupted"]["pending"]["counts"][name] for name in counts
    }
    fresh = store(given).receipts(3).ids() - staged.keys()
    assert len(fresh) == len(MADE["interrupted"]["pending"]["receipts"])
    assert not fresh & MADE["interrupted"]["pending"]["receipts"].keys()
    ours, theirs = contents(given), recorded(3)
    assert (ours["keys"], ours["rows"], ours["quarantine"]) == (theirs["keys"], theirs["rows"], theirs["quarantine"])

    finished = unpack("pending", tmp_path)
    fakes.run_here(finished)
    for width in WIDTHS:
        cosines = (vectors(rows(given, 3, width)) * vectors(rows(finished, 3, width))).sum(axis=1)
        assert cosines.min() > LEAST_COSINE


def test_another_night_goes_on(tmp_path: Path) -> None:
    """The pending epoch is finished first; then only what differs from it is embedded."""
    given = unpack("pending", tmp_path)
    path = ROOT / "corpus" / "b.parquet"
    table = pq.read_table(path).to_pylist()
    changed, gone = table[0]["id"], table.pop()["id"]
    table[0]["text"] += " And more."
    table.append({"id": "late", "text": "A late guide to nothing.", "kind": "note"})
    pq.write_table(pa.Table.from_pylist(table), path)
    summary = fakes.run_here(unjudged(given))
    assert contents(given, 3) == recorded(3)
    documents = len(MADE["epochs"]["3"]["documents"])
    counts = ("epoch", "new", "changed", "deleted", "moved", "unchanged", "indexed", "quarantined")
    assert [summary[name] for name in counts] == [4, 1, 1, 1, 0, documents - 2, 2, 2]
    for width in WIDTHS:
        old, new = (
            dict(zip(keys(found), vectors(found), strict=True))
            for found in (rows(given, 3, width), rows(given, 4, width))
        )
        assert new.keys() == old.keys() - {(gone, 0)} | {("late", 0)}
        assert not np.array_equal(new[changed, 0], old[changed, 0])
        kept = old.keys() & new.keys() - {(changed, 0)}
        assert all(np.array_equal(old[key], new[key]) for key in kept)
    assert published(given).epoch.documents is None, "the payload stays where it was"
    before = contents(given)
    once = given.model_copy(update={"index": given.index.model_copy(update={"payload": "once"})})
    summary = fakes.run_here(once)
    assert (summary["epoch"], summary["tokens"], summary["indexed"]) == (5, 0, 0)
    assert published(given).epoch.documents is not None
    assert contents(given) == before


def test_a_rollback_gives_up_the_pending_epoch(tmp_path: Path) -> None:
    """Also the table that is committed; the next night begins with the epoch that was returned to."""
    given = unpack("pending", tmp_path)
    again = history.rollback(given.index.uri, store(given), 1)
    assert (again.number, again.versions()) == (3, published(given, 1).epoch.versions())
    assert store(given).pending_intent() is None
    assert contents(given) == recorded(1)
    summary = fakes.run_here(unjudged(given))
    assert (summary["epoch"], summary["documents"]) == (4, 51)
    assert 0 < summary["unchanged"] < 48
    ours, theirs = contents(given), recorded(3)
    assert (ours["keys"], ours["rows"], ours["quarantine"]) == (theirs["keys"], theirs["rows"], theirs["quarantine"])
    assert contents(given, 2) == recorded(2)


@pytest.mark.parametrize("days", [0, 8])
def test_pruning_takes_nothing_that_is_needed(days: float, tmp_path: Path) -> None:
    """Neither of the latest epoch nor of the one that was begun, though Lance's clean-up takes files of last week."""
    given = unpack("pending", tmp_path, days)
    staged = store(given).receipts(3).ids()
    pruned = history.prune(given.index.uri, store(given), keep=1)
    assert (pruned.epochs, pruned.tables) == ([1], 0)
    assert pruned.versions > 0
    assert pruned.bytes > 0
    with pytest.raises(IndexerError):
        rows(given, 1)
    assert contents(given, 2) == recorded(2)
    assert store(given).receipts(3).ids() == staged
    assert fakes.run_here(given)["epoch"] == 3
    assert contents(given, 3) == recorded(3)
    assert history.prune(given.index.uri, store(given), keep=1).epochs == [2]
    assert contents(given) == recorded(3)
    assert fakes.run_here(given)["indexed"] == 0
