"""Sources of a night's documents are cut by shard; Python never holds all of them."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from indexer.corpus.files import DataFile
from indexer.corpus.shards import ChosenRows, Shard, cut_shards
from indexer.indexing.known_sources import KnownSources

FILES = [DataFile(f"{number}.parquet", 1, 1) for number in range(3)]

MANY = 100_000


def cut(rows: dict[int, np.ndarray], shard_bytes: int) -> list[Shard]:
    """Shards of rows by the file's place."""
    chosen = (
        ChosenRows(FILES[at], numbers, np.ones_like(numbers), np.zeros_like(numbers), pa.table({"id": numbers}))
        for at, numbers in rows.items()
    )
    return list(cut_shards(chosen, shard_bytes, ""))


def table(rows: list[tuple[int, int, str, str]]) -> pa.Table:
    """Sources by file and row, in several chunks."""
    file, row, source, receipt = zip(*rows, strict=True)
    whole = pa.table(
        {"file": pa.array(file, pa.int32()), "row": row, "epoch": [7] * len(rows), "source": source, "receipt": receipt}
    )
    return pa.concat_tables([whole.slice(start, 50) for start in range(0, len(rows), 50)])


def test_every_shard_gets_the_sources_of_its_documents() -> None:
    drawn = np.random.default_rng(0)
    chosen = {at: np.sort(drawn.choice(1_000, 300, replace=False)) for at in (0, 2)}
    # Not all documents of a shard have a source, and other documents have one.
    rows = [(at, row, f"{at}-{row}", f"r{row % 3}") for at in range(3) for row in range(0, 1_000, 2)]
    known = KnownSources(FILES, table(rows))
    shards = cut(chosen, 256 * 37)
    assert len(shards) == 17
    assert any(len(shard.parts) == 2 for shard in shards)
    found = {}
    for shard in shards:
        sources = known.of_shard(shard)
        assert known.receipts_of(shard) == sorted({f"r{row % 3}" for _, row in sources})
        found |= sources
    wanted = [(at, int(row)) for at, numbers in chosen.items() for row in numbers if row % 2 == 0]
    assert found == {(f"{at}.parquet", row): (7, f"{at}-{row}") for at, row in wanted}


@pytest.mark.heavy
def test_python_holds_the_sources_of_one_shard() -> None:
    numbers = np.arange(MANY)
    known = table([(0, row, f"source-{row}", "r") for row in range(MANY)])
    shards = cut({0: numbers}, 256 * 1_000)
    tracemalloc.start()
    sources = KnownSources(FILES, known)
    counts = [len(sources.of_shard(shard)) for shard in shards]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts == [1_000] * 100
    # The places are 12 bytes each. Tuples of all sources took 30 MB.
    assert peak < 3_000_000
