"""Gives documents the vectors that exist: of an epoch, or of an equal text that was embedded tonight."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.cluster.connection import SMALL_ROWS
from indexer.corpus.shards import Shard
from indexer.indexing import reuse_shard
from indexer.indexing.night import Night
from indexer.indexing.reuse_shard import Sources
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
    sources = {} if known is None else _sources(night, known, known["epoch"])
    epochs = {epoch.number: StoredVectors.of(night.target.uri, epoch) for epoch in night.job.reusable}
    number = night.job.published.number
    shards = night.unstaged(night.shards(work))
    items = ((night.target, shard, _of(shard, sources), epochs, number) for shard in shards)
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
    ids = pc.unique(wanted["source"])
    receipts = ((night.target, shard_id, ids) for shard_id in night.staged.receipts)
    places = {
        name: shard
        for shard, names in night.cluster.map(reuse_shard.staged_ids, receipts, in_driver=small)
        for name in names
    }
    is_there = pc.is_in(wanted["source"], value_set=pa.array(places, pa.string()))
    there = wanted.filter(is_there)
    if there.num_rows:
        say(f"{there.num_rows:,} documents have texts that were embedded tonight: their vectors are reused")
    sources = _sources(night, there, pa.repeat(night.job.epoch, there.num_rows))
    before = night.staged.documents
    items = (
        (night.target, shard, found := _of(shard, sources), sorted({places[name] for _, name in found.values()}))
        for shard in night.unstaged(night.shards(WorkKind.COPY_TONIGHT, there))
    )
    for receipt in night.cluster.map(reuse_shard.stage_from_tonight, items, in_driver=small):
        night.staged.add(receipt)
    night.staged.copied += night.staged.documents - before
    return wanted.filter(pc.invert(is_there))


def _sources(night: Night, known: pa.Table, epochs: pa.Array | pa.ChunkedArray) -> Sources:
    """Where each document has its vectors, by path and row."""
    paths = [file.path for file in night.job.corpus.files]
    columns = (known["file"].to_pylist(), known["row"].to_pylist(), epochs.to_pylist(), known["source"].to_pylist())
    return {(paths[file], row): (epoch, name) for file, row, epoch, name in zip(*columns, strict=True)}


def _of(shard: Shard, sources: Sources) -> Sources:
    """The entries that a shard needs."""
    keys = ((part.file.path, part.start + int(at)) for part in shard.parts for at in np.flatnonzero(part.chosen))
    return {key: sources[key] for key in keys if key in sources}
