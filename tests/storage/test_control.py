"""Control files: put once, first one counts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from indexer.errors import IndexerError
from indexer.storage.control import ControlStore
from indexer.storage.description import Description
from indexer.storage.records import Epoch, Intent, Receipt


def receipt(shard: str, documents: int) -> Receipt:
    return Receipt(
        shard_id=shard,
        fragments={"docs_d32": [{"id": 0, "files": []}]},
        documents=documents,
        chunks=documents,
        quarantined=0,
        unread=0,
        truncated=0,
        tokens=1,
        sampled_cosine=None,
        seconds={"engine": 0.5},
    )


def description(number: int = 0) -> Description:
    model = {"name": "m", "revision": None, "dtype": "auto", "sha256": {}, "max_tokens": 8, "overflow": "truncate"}
    counts = ("documents", "new", "changed", "unchanged", "deleted", "duplicates", "quarantined", "text_bytes", "moved")
    totals = ("documents", "indexed", "quarantined", "truncated", "chunks", "tokens", "resumed_shards", "restarts")
    return Description.model_validate(
        {
            "fingerprint": {},
            "layout": {"widths": [32], "precision": "float32", "metric": "cosine", "payload": {}},
            "corpus": str(number),
            "text_columns": ["text"],
            "model": model | {"chunk_overlap": 0, "query_instruction": "", "dimension": 32, "query_template": ""},
            "to_retry": 0,
            "counts": dict.fromkeys(counts, 0),
            "gates": {},
            "run": dict.fromkeys((*totals, "resumed_tokens", "tokens_per_second"), 0),
        }
    )


def intent(epoch: int) -> Intent:
    return Intent(
        epoch=epoch,
        generation=1,
        bases={},
        widths={},
        quarantine_table="q",
        vector_index="none",
        trained_rows={},
        receipts=[],
        quarantine=[],
        removals=[],
        documents=0,
        metadata={},
        description=description(),
    )


def epoch(number: int) -> Epoch:
    return Epoch(
        number=number, generation=1, published="", tables=[], quarantine=("q", 1), description=description(number)
    )


def test_of_many_receipts_at_once_one_counts(tmp_path: Path) -> None:
    stores = [ControlStore(str(tmp_path), "docs") for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        kept = list(threads.map(lambda at: stores[at].receipts(3).put(receipt("s", at)).documents, range(8)))
    assert len(set(kept)) == 1
    assert stores[0].receipts(3).get("s").documents == kept[0]
    assert stores[0].receipts(3).ids() == {"s"}
    assert stores[0].receipts(4).ids() == set()


def test_epochs_count_by_number_and_are_never_replaced(tmp_path: Path) -> None:
    store = ControlStore(str(tmp_path), "docs")
    assert store.latest_epoch() is None
    for number in (1, 2, 10):
        store.put_epoch(epoch(number))
    assert store.put_epoch(epoch(10).model_copy(update={"description": description()})) == epoch(10)
    latest = store.latest_epoch()
    assert latest is not None
    assert latest.number == 10
    names = sorted(path.name for path in (tmp_path / "_docs" / "epochs").iterdir())
    assert names == ["000000000001.json", "000000000002.json", "000000000010.json"]


def test_an_intent_is_pending_until_its_epoch(tmp_path: Path) -> None:
    store = ControlStore(str(tmp_path), "docs")
    assert store.pending_intent() is None
    store.put_intent(intent(1))
    assert store.pending_intent() == intent(1)
    assert store.put_intent(intent(1).model_copy(update={"documents": 5})) == intent(1)
    store.put_epoch(epoch(1))
    assert store.pending_intent() is None


def test_digests_are_read_by_range(tmp_path: Path) -> None:
    store = ControlStore(str(tmp_path), "docs")
    table = pa.table({"id": [f"{row:07d}" for row in range(200_000)], "row": range(200_000)})
    store.digests.put("x", table)
    assert store.digests.names() == {"x"}
    assert store.digests.read("x", ["id", "row"]).equals(table)
    part = store.digests.read("x", ["row"], "0070000", "0080000")["row"].to_pylist()
    assert part == list(range(65_536, 81_920))
    assert [rows for _, rows in store.digests.groups("x")] == [16_384] * 12 + [3_392]


def test_indexes_do_not_see_each_other(tmp_path: Path) -> None:
    ControlStore(str(tmp_path), "docs").put_epoch(epoch(1))
    assert ControlStore(str(tmp_path), "other").latest_epoch() is None


def test_missing_and_unwritable_files_are_named(tmp_path: Path) -> None:
    store = ControlStore(str(tmp_path), "docs")
    with pytest.raises(IndexerError, match="epochs/000000000007"):
        store.epoch(7)
    (tmp_path / "_docs").write_text("a file where a folder should be")
    with pytest.raises(IndexerError, match=r"cannot write epochs/000000000001\.json"):
        store.put_epoch(epoch(1))
