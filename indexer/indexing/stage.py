"""Stages every shard of a night: reuses vectors that exist and embeds the rest, or takes an earlier run's receipt."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pyarrow as pa

from indexer.cluster.connection import SMALL_ROWS, Cluster
from indexer.cluster.drive import Work, drive
from indexer.cluster.leases import GivenUp
from indexer.cluster.pool import WorkerPool
from indexer.corpus.shards import Shard
from indexer.indexing import relayout
from indexer.indexing.changes import Changes
from indexer.indexing.compilation import fitted
from indexer.indexing.embed import EmbedPipeline
from indexer.indexing.job import Job, Target
from indexer.indexing.journal import Journal
from indexer.indexing.judge import make_judge
from indexer.indexing.night import Night
from indexer.indexing.quarantine import rows_of_changes, rows_of_killed_shard
from indexer.indexing.resume import forget_lost
from indexer.indexing.reusing import reuse_stored, reuse_tonight
from indexer.indexing.scan import Unread
from indexer.indexing.staged import Staged
from indexer.indexing.stored_vectors import StoredVectors
from indexer.indexing.worklist import WorkKind
from indexer.progress import say
from indexer.storage import tables
from indexer.storage.records import Receipt


def stage(job: Job, cluster: Cluster, found: Changes, unread: Mapping[str, Unread], watch: Journal) -> Staged:
    """Takes every shard to a receipt and reuses the receipts of earlier runs."""
    _make_tables(job)
    forget_lost(job)
    left = [rows_of_changes(table, job.corpus, unread) for table in found.quarantine]
    staged = Staged([], left, to_retry=len(unread))
    splits = job.layout.chunk_hashes
    chunks = StoredVectors.of(job.settings.index.uri, job.published) if job.published and splits else None
    target = Target(job.corpus.without_files, job.layout, job.settings.index.uri, job.epoch, chunks)
    night = Night(job, cluster, found, unread, target, staged, watch, frozenset(job.store.receipts(job.epoch).ids()))
    with watch("move"):
        reuse_stored(night)
    _embed(night, WorkKind.EMBED)
    with watch("copy"):
        refused = reuse_tonight(night)
    if refused.num_rows:
        # The one document with their text was refused or went away: each of them is tried itself.
        _embed(night, WorkKind.EMBED_LEFT, refused)
    return staged


def _make_tables(job: Job) -> None:
    """Creates the tables that the epoch writes anew."""
    uri, layout, remade = job.settings.index.uri, job.layout, job.change.remade
    if job.published is None:
        tables.create_missing(uri, layout.schemas(), layout.name)
    elif remade:
        known = {name for epoch in job.store.epochs() for name in epoch.versions()}
        wanted = {name: columns for name, columns in layout.schemas().items() if name in remade}
        tables.create_gone(uri, wanted, layout.name, known)


def stage_rest(job: Job, cluster: Cluster, found: Changes, staged: Staged) -> None:
    """Records which ids the epoch drops, and copies the published rows that stay into tables that are written anew.

    Args:
        job: The run's inputs.
        cluster: Where tasks run.
        found: The comparison, after :func:`indexer.indexing.kept.keep_published`.
        staged: Takes the files with the ids and the receipts.
    """
    dropped = [*found.deleted, *found.changed, *found.payload_changed]
    staged.removals = [job.store.put_removals(job.epoch, ids) for ids in dropped if len(ids)]
    stays = found.counts["unchanged"] + found.counts["kept"]
    pieces = list(relayout.copied_pieces(job, stays, staged.removals))
    if not pieces:
        return
    say(f"{'; '.join(job.change.differences)}: copying the vectors of {stays:,} documents")
    receipts = job.store.receipts(job.epoch)
    target = Target(job.corpus.without_files, job.layout, job.settings.index.uri, job.epoch)
    items = ((target, piece) for piece in receipts.unfinished(pieces, receipts.ids(), staged.add))
    for receipt in cluster.map(relayout.copy, items, in_driver=stays < SMALL_ROWS):
        staged.add(receipt)


def _embed(night: Night, kind: WorkKind, left: pa.Table | None = None) -> None:
    """Stages the documents that have to be embedded. Without any, no engine starts."""
    job, staged, watch = night.job, night.staged, night.watch
    resumed = staged.resumed
    shards = documents = text_bytes = 0
    for shard in night.unstaged(night.shards(kind, left), staged.resume):
        shards += 1
        documents += shard.documents
        text_bytes += shard.text_bytes
    if staged.resumed > resumed:
        told = f"{staged.resumed - resumed} shards ({staged.documents:,} documents)"
        say(f"resuming epoch {job.epoch}: {told} are staged already")
    if not shards:
        return
    with watch("sample"):
        target = replace(night.target, admit=make_judge(job, night.unread).admit)
    workers = min(night.cluster.workers, shards)
    say(f"starting {workers} workers for {documents:,} documents in {shards} shards")
    model = fitted(job, text_bytes, workers, gpus=night.cluster.gpus)
    rest = night.unstaged(night.shards(kind, left), lambda _: None)
    given = job.settings.run
    with ExitStack() as stack:
        with watch("start"):
            pool = night.cluster.pool(partial(EmbedPipeline, target, model), shards)
            watch.pools.append(pool)
            stack.enter_context(pool)
        with watch("embed"):
            work = Work(rest, documents, "documents", given.retries, given.max_restarts, job.settings.index.name)
            _drive(job, pool, work, staged)


def _drive(job: Job, pool: WorkerPool, work: Work[Shard], staged: Staged) -> None:
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
    staged.restarts += pool.restarts
