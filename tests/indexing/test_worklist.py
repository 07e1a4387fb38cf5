"""The size of shards: enough of them for every worker of a large cluster, few for a short night."""

from types import SimpleNamespace
from typing import Any

import pytest

from indexer.cluster.pipeline import PIECES_INSIDE
from indexer.indexing.worklist import FEWEST_DOCUMENTS, MIB, _shard_bytes

MOST_WORKERS = 64


def shards(text_bytes: int, documents: int, shard_mb: float = 64.0) -> float:
    """Shards of a night with so many changed documents."""
    job: Any = SimpleNamespace(settings=SimpleNamespace(run=SimpleNamespace(shard_mb=shard_mb)))
    found: Any = SimpleNamespace(counts={"text_bytes": text_bytes, "new": documents, "changed": 0})
    return text_bytes / _shard_bytes(job, found)


@pytest.mark.parametrize("documents", [10_000, 10**7])
def test_a_large_job_keeps_every_worker_busy_to_its_end(documents: int) -> None:
    """Each holds three shards at once; with no more than these nobody could take over a slower one's."""
    wanted = MOST_WORKERS * (PIECES_INSIDE + 1)
    assert shards(1 << 30, documents) >= wanted
    assert shards(1 << 40, documents) >= wanted
    assert shards(1 << 40, documents, shard_mb=8.0) >= (1 << 40) / (8 * MIB), "the setting is a cap"


def test_a_short_night_has_few_shards() -> None:
    assert shards(200 * 500, 200) <= 200 / FEWEST_DOCUMENTS + 1
