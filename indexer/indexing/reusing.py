"""Gives documents the vectors that exist: of an epoch, or of an equal text that was embedded tonight."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.cluster.connection import SMALL_ROWS
from indexer.indexing import reuse_shard
from indexer.indexing.known_sources import KnownSources
from indexer.indexing.night import Night
from indexer.indexing.stored_vectors import StoredVectors
from indexer.indexing.worklist import WorkKind
from indexer.progress import say


def reuse_stored(night: Night) -> None:
    """Stages documents whose vectors an epoch has: moved ones, other payloads, texts that another document has."""
    if night.job.published is None:
        return
    equal, staged = night.found.equal, night.staged
    staged.moved += _reuse_stored(night, WorkKind.MOVE, equal.moved, equal.moved.num_rows, "only got new ids")
    changed = night.found.counts["payload_changed"]
    staged.payload_changed += _reuse_stored(night, WorkKind.PAYLOAD, None, changed, "only got another payload")
    copied = equal.copied
    staged.copied += _reuse_stored(
        night, WorkKind.COPY, copied, copied.num_rows, "have texts that were embedded before"
    )


def _reuse_stored(night: Night, work: WorkKind, known: pa.Table | None, rows: int, why: str) -> int:
    """Stages one kind; returns the documents staged. Without sources they have their own ids in the published epoch."""
    if not rows or night.job.published is None:
        return 0
    say(f"{rows:,} documents {why}: their vectors are reused")
    before = night.staged.documents
    sources = None if known is None else KnownSources(night.job.corpus.files, known)
    epochs = {epoch.number: StoredVectors.of(night.target.uri, epoch) for epoch in night.job.reusable}
    number = night.job.published.number
    shards = night.unstaged(night.shards(work))
    items = (
        (night.target, shard, {} if sources is None else sources.of_shard(shard), epochs, number) for shard in shards
    )
    for receipt in night.cluster.map(reuse_shard.stage_from_epochs, items, in_driver=rows < SMALL_ROWS):
        night.staged.add(receipt)
    return night.staged.documents - before


def reuse_tonight(night: Night) -> pa.Table:
    """Stages documents whose text was embedded tonight under another id.

    Returns:
        Columns file and row of those whose text was not: its document was refused, killed its worker or went away.
    """
    wanted = night.found.equal.tonight
    if not wanted.num_rows:
        return wanted
    small = night.staged.documents < SMALL_ROWS
    known = _staged_tonight(night, wanted, in_driver=small)
    there = known.filter(pc.field("receipt").is_valid())
    if there.num_rows:
        say(f"{there.num_rows:,} documents have texts that were embedded tonight: their vectors are reused")
    sources = KnownSources(night.job.corpus.files, there)
    before = night.staged.documents
    items = (
        (night.target, shard, sources.of_shard(shard), sources.receipts_of(shard))
        for shard in night.unstaged(night.shards(WorkKind.COPY_TONIGHT, there))
    )
    for receipt in night.cluster.map(reuse_shard.stage_from_tonight, items, in_driver=small):
        night.staged.add(receipt)
    night.staged.copied += night.staged.documents - before
    return wanted.filter(known["receipt"].is_null())


def _staged_tonight(night: Night, wanted: pa.Table, *, in_driver: bool) -> pa.Table:
    """The documents of :attr:`indexer.indexing.equal_texts.EqualTexts.tonight` with columns epoch and receipt.

    The receipt is that of the shard which holds the source; null if none does.
    """
    ids = pc.unique(wanted["source"])
    items = ((night.target, shard_id, ids) for shard_id in night.staged.receipts)
    found = list(night.cluster.map(reuse_shard.staged_ids, items, in_driver=in_driver))
    held = pa.chunked_array([names for _, names in found], pa.string())
    places = np.repeat(np.arange(len(found), dtype=np.int32), [len(names) for _, names in found])
    shards = pa.DictionaryArray.from_arrays(places, pa.array([shard for shard, _ in found], pa.string()))
    epochs = pa.repeat(pa.scalar(night.job.epoch, pa.int64()), wanted.num_rows)
    receipts = shards.take(pc.index_in(wanted["source"], value_set=held))
    return wanted.append_column("epoch", epochs).append_column("receipt", receipts)
