"""Sums of a table that are updated by what a commit changed, and the check of all of it."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.commands import epochs
from indexer.errors import IndexerError
from indexer.publishing import identity, publish
from indexer.publishing.verify import verify
from indexer.storage.control import ControlStore
from tests.support.fakes import run_here, settings, words, write

NAME = "docs_d32"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two epochs, of which the second changed one document, dropped one and added two."""
    root = tmp_path_factory.mktemp("identity")
    documents = words(40)
    write(root / "corpus" / "a.parquet", documents)
    given = settings(root, index={"widths": [32]})
    run_here(given)
    write(root / "corpus" / "a.parquet", [("doc-00000", "other"), *documents[2:], ("x", "new"), ("y", "too")])
    run_here(given)
    return root


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even small tables are summed up by what changed."""
    monkeypatch.setattr(identity, "FEW", 1)


def updated(root: Path, version: int, name: str = NAME) -> identity.Identity | None:
    uri = str(root / "index")
    store = ControlStore(uri, "docs")
    intent = list(store.closed_intents(2))[-1]
    added = publish._added(publish._receipts(store, intent), name)
    return identity._updated(uri, store, intent, added, name, version)


def test_sums_are_those_of_the_whole_table(root: Path) -> None:
    uri = str(root / "index")
    epoch = ControlStore(uri, "docs").epoch(2)
    whole = identity.of_table(uri, NAME, epoch.tables[0].version)
    assert updated(root, epoch.tables[0].version) == whole
    assert epoch.tables[0].sums == whole.sums
    assert (whole.rows, whole.keys, whole.documents) == (41, 41, 41)
    assert epoch.documents is not None
    assert updated(root, epoch.documents.version, epoch.documents.name) == whole.of_documents
    assert epoch.documents.sums == whole.of_documents.sums


def test_more_dropped_ids_than_the_bound_stay_in_arrow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dropped:
        """Ids that would not fit into a list of Python's."""

        def __len__(self) -> int:
            return identity.MOST + 1

        def to_pylist(self) -> list[str]:
            raise MemoryError

    epoch = ControlStore(str(root / "index"), "docs").epoch(2)
    monkeypatch.setattr(ControlStore, "removals", lambda *_: Dropped())
    assert updated(root, epoch.tables[0].version) is None


def _doubled(dataset: lance.LanceDataset) -> None:
    dataset.insert(dataset.to_table(filter="id = 'x'"))


def _lost(dataset: lance.LanceDataset) -> None:
    dataset.delete("id = 'doc-00007'")


def _exchanged(dataset: lance.LanceDataset) -> None:
    """As many rows as before, and one of the epoch's is another."""
    row = dataset.to_table(filter="id = 'y'")
    dataset.delete("id = 'y'")
    dataset.insert(
        row.set_column(
            row.schema.get_field_index("payload_hash"), "payload_hash", pa.array([b"12345678"], pa.binary(8))
        )
    )


@pytest.mark.parametrize("change", [_doubled, _lost, _exchanged])
def test_a_table_with_other_rows_is_read_in_full(root: Path, change: Callable[[lance.LanceDataset], None]) -> None:
    published = ControlStore(str(root / "index"), "docs").epoch(2).tables[0].version
    dataset = lance.dataset(f"{root}/index/{NAME}.lance", version=published)
    dataset.restore()
    change(dataset)
    assert updated(root, dataset.version) is None


def test_keys_of_a_large_table_are_counted_in_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(root / "index")
    version = ControlStore(uri, "docs").epoch(2).tables[0].version
    whole = identity.of_table(uri, NAME, version)
    monkeypatch.setattr(identity, "KEYS_AT_ONCE", 10)
    assert identity.of_table(uri, NAME, version) == whole


def test_hashes_are_shared_out_in_one_pass() -> None:
    """Tables of 268,000,000 rows and more have 256 files: a pass over all hashes for each took 100 times as long."""
    rows = 200_000
    batch = pa.record_batch({"id": [f"{row}" for row in range(rows)], "chunk": pa.array([0] * rows, pa.int32())})
    seconds, held = {}, {}
    for parts in (1, 256):
        files = [io.BytesIO() for _ in range(parts)]
        started = time.process_time()
        assert sum(one.num_rows for one in identity._noting_keys([batch] * 4, files)) == 4 * rows
        seconds[parts] = time.process_time() - started
        held[parts] = np.sort(np.concatenate([np.frombuffer(file.getvalue(), np.uint64) for file in files]))
    assert all(file.getvalue() for file in files)
    np.testing.assert_array_equal(held[1], held[256])
    assert seconds[256] < 10 * seconds[1]


def _quarantined(columns: pa.Schema) -> pa.Table:
    hashes = {"content_hash": bytes(16), "payload_hash": bytes(8)}
    row = {"id": "z", "shard": "", "file": "f", "row": 0, "reason": "null_text", "detail": ""} | hashes
    return pa.Table.from_pylist([row], columns)


def test_verify_says_what_it_cannot_compare(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes of another version of polars are other numbers; epochs of early versions recorded no sums."""
    config = root / "index.toml"
    index = f'[index]\nuri = "{root}/index"\nwidths = [32]\n'
    config.write_text(f'[corpus]\nuri = "{root}/corpus"\n[model]\nname = "m"\n{index}')
    monkeypatch.setattr("sys.argv", ["publish", "--config", str(config), "verify"])
    made_with = identity.HASHING
    monkeypatch.setattr(identity, "HASHING", "polars 99")
    epochs.main()
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["wrong"] == []
    assert [text.split(":")[0] for text in found["unchecked"]] == [NAME, "docs_documents"]
    assert f"epoch recorded sums of {made_with}, which this polars 99 cannot make" in said.err
    store = ControlStore(f"{root}/index", "docs")
    epoch = store.epoch(2)
    old = epoch.model_copy(update={"tables": [epoch.tables[0].model_copy(update={"sums": None})]})
    assert verify(f"{root}/index", store, old)["unchecked"][0] == (
        "docs_d32: the epoch recorded no sums, as versions before them did"
    )


def test_verify_says_what_does_not_hold(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(root / "index")
    config = root / "index.toml"
    config.write_text(f'[corpus]\nuri = "{root}/corpus"\n[model]\nname = "m"\n[index]\nuri = "{uri}"\nwidths = [32]\n')
    monkeypatch.setattr("sys.argv", ["publish", "--config", str(config), "verify"])
    epochs.main()
    assert json.loads(capsys.readouterr().out) == {
        "epoch": 2,
        "rows": {NAME: 41, "docs_documents": 41},
        "documents": {NAME: 41, "docs_documents": 41},
        "wrong": [],
        "unchecked": [],
    }
    store = ControlStore(uri, "docs")
    epoch = store.epoch(2)
    dataset = lance.dataset(f"{uri}/{NAME}.lance", version=epoch.tables[0].version)
    dataset.restore()
    _doubled(dataset)
    other = epoch.tables[0].model_copy(update={"version": dataset.version})
    file = root / "index" / "_docs" / "quarantine" / f"{2:012d}-{epoch.quarantine[1]}.parquet"
    rows = pq.read_table(file)
    pq.write_table(pa.concat_tables([rows, _quarantined(rows.schema)]), file)
    assert verify(uri, store, epoch.model_copy(update={"tables": [other]}))["wrong"] == [
        "docs_d32 has 1 rows with the key of another row",
        "docs_d32 has 42 documents, the epoch 41",
        "docs_d32 is not what its epoch recorded",
        "docs_documents has other keys or contents than docs_d32",
        "docs_quarantine has 0 rows, the epoch's file 1",
    ]
    with pytest.raises(IndexerError, match="epoch 2: docs_quarantine has 0 rows"):
        epochs.main()
