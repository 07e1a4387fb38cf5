"""This project as contenders: its engine alone, on Ray workers, and the whole job."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.support.workload import Outcome, Work
from indexer.cluster.connection import Cluster
from indexer.cluster.leases import Done
from indexer.corpus.shards import Shard
from indexer.indexing import run
from indexer.indexing.worklist import FEWEST_DOCUMENTS
from indexer.inference.engine import Embedder
from indexer.inference.sequences import TokenSequences
from indexer.job_settings import MIN_WIDTH
from indexer.settings import ClusterSettings, Settings
from indexer.storage.records import Receipt

SHARDS = 40

WARM = 64
"""Documents embedded before the clock starts."""


class FloorPipeline:
    """A worker that only embeds: token ids are in memory before the clock starts, vectors are dropped."""

    def __init__(self, make_engine: Callable[[], Embedder], ids: TokenSequences) -> None:
        """Starts the engine in a thread of its own, like the job, with the ids of all documents."""
        self._thread = ThreadPoolExecutor(1)
        self._engine = self._thread.submit(make_engine).result()
        self._ids = ids
        self.compile_seconds = 0.0  # workers tell it; this benchmark counts starts apart

    def run(self, shard: Shard) -> Receipt:
        """Embeds a shard and drops the vectors."""
        start = int(shard.shard_id)
        ids = self._ids[start : start + shard.documents]
        self._thread.submit(self._engine.embed, ids).result()
        return Receipt(
            shard_id=shard.shard_id,
            fragments={},
            documents=shard.documents,
            chunks=shard.documents,
            quarantined=0,
            unread=0,
            truncated=0,
            tokens=ids.tokens,
            sampled_cosine=None,
            seconds={},
        )


@dataclass(frozen=True)
class MakeFloor:
    """Builds the floor in a worker's process."""

    work: Work

    def __call__(self) -> FloorPipeline:
        """Starts the engine and reads the ids."""
        return FloorPipeline(self.work.model.engine, self.work.ids)


def engine(work: Work, number: int) -> Outcome:  # noqa: ARG001  # every contender is told its round
    """One engine on one core outside Ray, with ready token ids; on a GPU machine the whole GPU."""
    begun = time.perf_counter()
    # Pin to one core, as Ray workers of one core do.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    os.environ["OMP_NUM_THREADS"] = "1"
    pipeline = FloorPipeline(work.model.engine, work.ids)
    pipeline.run(Shard("0", (), WARM, 0))
    start = time.perf_counter()
    tokens = sum(pipeline.run(shard).tokens for shard in _shards(work))
    return Outcome(tokens, time.perf_counter() - start, start - begun, {})


def one_worker(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """The same on one Ray worker."""
    return _on_workers(work, ClusterSettings(address="local", workers=1))


def floor(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """The same on all workers: the upper bound for the whole job."""
    return _on_workers(work, ClusterSettings(address="local"))


def job(work: Work, number: int) -> Outcome:
    """From Parquet to published tables at four widths."""
    summary = run.run(settings_of(work, number))
    if summary["indexed"] != work.documents:
        raise RuntimeError(f"{summary['indexed']} of {work.documents} documents were indexed")
    stages = summary["stages"]
    starting = stages["connect"] + stages["start"]
    rest = {name: seconds for name, seconds in stages.items() if name not in {"connect", "start"}}
    workers = {f"worker: {name}": seconds for name, seconds in summary["worker_stages"].items()}
    return Outcome(summary["tokens"], summary["seconds"] - starting, starting, rest | workers)


def settings_of(work: Work, number: int) -> Settings:
    """Settings of a job into a new index at four widths, from the model's own down."""
    widest = work.model.checkpoint.dimension
    widths = [widest, widest // 2, widest // 4, widest // 8]
    return Settings(
        corpus={"uri": work.corpus},
        model=work.model_settings,
        engine=dict(work.engine),
        index={"uri": str(work.root / f"index-{number}"), "widths": [width for width in widths if width >= MIN_WIDTH]},
        cluster={"address": "local"},
        run={"progress": "none", "shard_mb": min(8.0, sum(map(len, work.texts)) / _shard_count(work) / 2**20)},
    )


def _on_workers(work: Work, settings: ClusterSettings) -> Outcome:
    """Runs the floor on the workers of a cluster and times it."""
    begun = time.perf_counter()
    make: Any = MakeFloor(work)
    with Cluster(settings) as cluster, cluster.pool(make, _shard_count(work)) as pool:
        warm = 0
        while warm < pool.size:
            # One piece per worker, given at once, so that each worker warms up on one.
            warm = pool.ready
            for _ in pool.run([Shard("0", (), WARM, 0)] * pool.size, retries=0, most_restarts=0):
                pass
        start = time.perf_counter()
        ended = pool.run(_shards(work), retries=0, most_restarts=0)
        tokens = sum(done.receipt.tokens for done in ended if isinstance(done, Done))
        return Outcome(tokens, time.perf_counter() - start, start - begun, {})


def _shard_count(work: Work) -> int:
    """Number of shards, fewer for few documents."""
    return min(SHARDS, -(-work.documents // FEWEST_DOCUMENTS))


def _shards(work: Work) -> list[Shard]:
    """Equal numbers of documents."""
    size = -(-work.documents // _shard_count(work))
    return [Shard(str(at), (), min(size, work.documents - at), 0) for at in range(0, work.documents, size)]
