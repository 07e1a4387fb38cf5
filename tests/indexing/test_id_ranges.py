"""Ranges of ids hold about equally many rows, whatever the files are like, and together hold every row once."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from indexer.indexing import id_ranges
from indexer.storage import put_once
from indexer.storage.control import ControlStore

pytestmark = pytest.mark.heavy

ROWS = 60_000

WANTED = 5_000
"""Rows of a range here."""

GROUP_ROWS = 100


def hashes() -> list[str | None]:
    return [f"{row * 0x9E3779B97F4A7C15 % 2**64:016x}" for row in range(ROWS)]


def numbers() -> list[str | None]:
    return [f"doc-{row}" for row in range(ROWS)]


def addresses() -> list[str | None]:
    drawn = random.Random(0)
    return [f"https://{'abc'[min(2, int(drawn.expovariate(2)))]}.org/{row}" for row in range(ROWS)]


def files(ids: list[str | None], many: int, *, by_id: bool) -> list[list[str | None]]:
    """The ids in files that each cover all of them, or each a part."""
    rows = -(-ROWS // many)
    ordered = sorted(ids, key=str) if by_id else ids
    return [sorted(ordered[at : at + rows], key=str) for at in range(0, ROWS, rows)]


@pytest.mark.parametrize("make", [hashes, numbers, addresses])
@pytest.mark.parametrize("many", [1, 7, 50])
@pytest.mark.parametrize("by_id", [False, True])
def test_ranges_are_about_equally_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], list[str | None]], many: int, *, by_id: bool
) -> None:
    monkeypatch.setattr(put_once, "GROUP_ROWS", GROUP_ROWS)
    monkeypatch.setattr(id_ranges, "RANGE_ROWS", WANTED)
    monkeypatch.setattr(id_ranges, "ROWS_PER_SAMPLE", 10)
    store = ControlStore(str(tmp_path), "docs")
    ids = make()
    ids[5:8] = [None] * 3
    for at, held in enumerate(files(ids, many, by_id=by_id)):
        held.sort(key=lambda name: (name is None, name))  # digests have null ids last
        store.digests.put(f"d{at}", pa.table({"id": pa.array(held, pa.string())}))
    found = id_ranges.cut(store.digests, store.digests.names())
    assert found.rows == ROWS
    counts = [sum(name is not None and _is_in(name, *bounds) for name in ids) for bounds in found.bounds]
    assert sum(counts) == ROWS - 3
    assert len(counts) == ROWS // WANTED
    assert max(counts) < 1.3 * WANTED, counts
    assert (found.bounds[0][0], found.bounds[-1][1]) == (None, None)


def _is_in(name: str, low: str | None, high: str | None) -> bool:
    return (low is None or name >= low) and (high is None or name < high)


def test_few_rows_and_ids_that_are_all_null_are_one_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ControlStore(str(tmp_path), "docs")
    assert id_ranges.cut(store.digests, []).bounds == [(None, None)]
    store.digests.put("few", pa.table({"id": pa.array(["a", "b"])}))
    assert id_ranges.cut(store.digests, ["few"]).bounds == [(None, None)]
    monkeypatch.setattr(id_ranges, "RANGE_ROWS", 5)
    store.digests.put("nulls", pa.table({"id": pa.nulls(20, pa.string())}))
    assert id_ranges.cut(store.digests, ["nulls"]).bounds == [(None, None)]
