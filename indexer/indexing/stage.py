"""Stages every shard of a night on workers, or reuses an earlier run's receipt."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa

from indexer.cluster.connection import SMALL_ROWS, Cluster
from indexer.cluster.drive import Work, drive
from indexer.cluster.leases import GivenUp
from indexer.cluster.pool import WorkerPool
from indexer.corpus.shards import Shard
from indexer.indexing import reuse, worklist
from indexer.indexing.changes import Changes
from indexer.indexing.compilation import fitted
from indexer.indexing.embed import EmbedPipeline
from indexer.indexing.job import Job, Target
from indexer.indexing.journal import Journal
from indexer.indexing.judge import make_judge
from indexer.indexing.quarantine import rows_of_changes, rows_of_killed_shard
from indexer.indexing.resume import forget_lost
from indexer.indexing.scan import Unread
from indexer.progress import say
from indexer.storage import tables
from indexer.storage.records import Receipt


@dataclass
class Staged:
    """Counts of the shards staged for the epoch; the receipts hold the fragments.

    Attributes:
        receipts: Shards staged.
        quarantine: Quarantined rows that no receipt has.
        documents: Documents staged. ``chunks``, ``truncated`` and ``tokens`` are sums over the receipts too.
        quarantined: Documents that workers refused, or that killed workers.
        resumed: Shards an earlier run had staged.
        resumed_tokens: Tokens of the resumed shards.
        to_retry: Files and documents quarantined for reasons that may pass.
        unread: Receipts of shards that lack documents, since their files went bad after the comparison.
        moved: Documents whose vectors were reused under a new id.
        restarts: Workers that died and were replaced.
        seconds: Seconds by stage, summed over this run's workers.
    """

    receipts: list[str]
    quarantine: list[pa.Table]
    documents: int = 0
    chunks: int = 0
    quarantined: int = 0
    truncated: int = 0
    tokens: int = 0
    resumed: int = 0
    resumed_tokens: int = 0
    to_retry: int = 0
    unread: list[Receipt] = field(default_factory=list)
    moved: int = 0
    restarts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, receipt: Receipt) -> None:
        """Counts a shard."""
        self.receipts.append(receipt.shard_id)
        self.documents += receipt.documents
        self.chunks += receipt.chunks
        self.quarantined += receipt.quarantined
        self.to_retry += receipt.unread
        self.unread += [receipt] if receipt.unread else []
        self.truncated += receipt.truncated
        self.tokens += receipt.tokens


def stage(job: Job, cluster: Cluster, found: Changes, unread: Mapping[str, Unread], watch: Journal) -> Staged:
    """Takes every shard to a receipt and reuses the receipts of earlier runs."""
    if job.published is None:
        tables.create_missing(job.settings.index.uri, job.layout.schemas(), job.layout.name)
    forget_lost(job)
    receipts = job.store.receipts(job.epoch)
    known = receipts.ids()
    left = [rows_of_changes(table, job.corpus, unread) for table in found.quarantine]
    staged = Staged([], left, to_retry=len(unread))
    target = Target(job.corpus, job.layout, job.settings.index.uri, job.epoch)
    with watch("move"):
        _move(job, cluster, found, target, staged)
    shards = documents = text_bytes = 0
    for shard in worklist.shards(job, found):
        if shard.shard_id in known:
            staged.add(receipts.get(shard.shard_id))
            staged.resumed += 1
            staged.resumed_tokens = staged.tokens
        else:
            shards += 1
            documents += shard.documents
            text_bytes += shard.text_bytes
    if staged.resumed:
        say(f"resuming epoch {job.epoch}: {staged.resumed} shards ({staged.documents:,} documents) are staged already")
    if shards:
        with watch("sample"):
            target = replace(target, admit=make_judge(job, unread).admit)
        workers = min(cluster.workers, shards)
        say(f"starting {workers} workers for {documents:,} documents in {shards} shards")
        model = fitted(job, text_bytes, workers, gpus=cluster.gpus)
        rest = (shard for shard in worklist.shards(job, found) if shard.shard_id not in known)
        given = job.settings.run
        with ExitStack() as stack:
            with watch("start"):
                pool = cluster.pool(partial(EmbedPipeline, target, model), shards)
                watch.pools.append(pool)
                stack.enter_context(pool)
            with watch("embed"):
                name = job.settings.index.name
                work = Work(rest, documents, "documents", given.retries, given.max_restarts, name)
                _embed(job, pool, work, staged)
    return staged


def _move(job: Job, cluster: Cluster, found: Changes, target: Target, staged: Staged) -> None:
    """Stages moved documents. If an earlier run did, its receipts win when these are put."""
    if job.published is None or not found.moved.num_rows:
        return
    say(f"{found.moved.num_rows:,} documents only got new ids: their vectors are reused")
    paths = [file.path for file in job.corpus.files]
    rows = zip(*(found.moved[name].to_pylist() for name in ("file", "row", "id")), strict=True)
    old_ids = {(paths[file], row): name for file, row, name in rows}
    versions = job.published.versions()
    items = ((target, shard, _of(shard, old_ids), versions) for shard in worklist.moved_shards(job, found))
    for receipt in cluster.map(reuse.move, items, in_driver=found.moved.num_rows < SMALL_ROWS):
        staged.add(receipt)
        staged.moved += receipt.documents


def _of(shard: Shard, old_ids: Mapping[tuple[str, int], str]) -> dict[tuple[str, int], str]:
    """The entries of the mapping that a shard needs."""
    keys = ((part.file.path, part.start + int(at)) for part in shard.parts for at in np.flatnonzero(part.chosen))
    return {key: old_ids[key] for key in keys}


def _embed(job: Job, pool: WorkerPool, work: Work[Shard], staged: Staged) -> None:
    """Drives the shards through the pool and counts receipts and given-up shards."""

    def done(receipt: Receipt) -> None:
        staged.add(receipt)
        for stage, seconds in receipt.seconds.items():
            staged.seconds[stage] = staged.seconds.get(stage, 0.0) + seconds

    def given_up(shard: GivenUp[Shard]) -> None:
        rows = rows_of_killed_shard(job, shard.piece, shard.reason)
        staged.quarantine.append(rows)
        staged.quarantined += rows.num_rows

    drive(pool, work, job.settings.run.progress, done, given_up)
    staged.restarts = pool.restarts
