"""What a comparison reads of the published epoch: the rows of the ids in question, in whatever way they are found."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from indexer.indexing import published_rows
from indexer.storage import tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch
from tests.support.fakes import run_here, settings, words, write

pytestmark = pytest.mark.heavy

ROWS = 640


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Epoch]:
    root = tmp_path_factory.mktemp("published")
    write(root / "corpus" / "a.parquet", words(ROWS))
    given = settings(root, index={"widths": [32]})
    run_here(given)
    epoch = ControlStore(given.index.uri, "docs").latest_epoch()
    assert epoch is not None
    return given.index.uri, epoch


@pytest.fixture(autouse=True)
def read_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every batch that was read of a whole table; small numbers stand for large ones."""
    monkeypatch.setattr(published_rows, "LOOKED_UP", 4)
    monkeypatch.setattr(published_rows, "PORTION_ROWS", 100)
    found: list[int] = []
    real = tables.read

    def counted(*how: Any) -> Iterator[pa.RecordBatch]:
        for batch in real(*how):
            for start in range(0, len(batch), 50):
                found.append(len(part := batch.slice(start, 50)))
                yield part

    monkeypatch.setattr(tables, "read", counted)
    return found


def held(published: tuple[str, Epoch], numbers: range, low: str | None = None, high: str | None = None) -> list[str]:
    ids = pa.array([f"doc-{number:05d}" for number in numbers])
    rows = published_rows.keys_of(*published, ids, low, high)
    assert set(rows.schema.names) == {"id", "chunk", "content_hash", "payload_hash"}
    return sorted(rows["id"].to_pylist())


@pytest.mark.parametrize(("many", "is_read"), [(10, False), (11, True), (300, True)])
def test_only_the_ids_in_question_are_held(
    published: tuple[str, Epoch], read_rows: list[int], many: int, *, is_read: bool
) -> None:
    # Half of them are not published.
    numbers = range(ROWS - many // 2, ROWS - many // 2 + many)
    assert held(published, numbers) == [f"doc-{number:05d}" for number in range(ROWS - many // 2, ROWS)]
    assert sum(read_rows) == (ROWS if is_read else 0)


def test_a_range_of_ids_is_read_alone(published: tuple[str, Epoch], read_rows: list[int]) -> None:
    assert held(published, range(200, 260), "doc-00200", "doc-00260") == [f"doc-{row:05d}" for row in range(200, 260)]
    assert sum(read_rows) == 60
    assert held(published, range(0)) == []
