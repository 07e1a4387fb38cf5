"""Cuts what changed into shards."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.corpus.shards import ChosenRows, Shard, cut_shards
from indexer.indexing import diff
from indexer.indexing.changes import Changes
from indexer.indexing.job import Job
from indexer.storage.records import canonical

SIZES = ["text_bytes", "payload_bytes"]

IDENTITY = [schema.ID, schema.CONTENT_HASH, schema.PAYLOAD_HASH]

MIB = 1 << 20

SHARDS_WANTED = 256
"""Of a large enough job: a worker holds three at a time, and the last ones are what the others wait for."""

SMALLEST_SHARD = MIB // 16

FEWEST_DOCUMENTS = 16
"""Documents of a small job's shard at least: of every shard one is embedded once more, to compare."""


def shards(job: Job, found: Changes) -> Iterator[Shard]:
    """Cuts what is to be embedded; the same shards whenever the same job is run again.

    Args:
        job: The run's inputs.
        found: The comparison.

    Yields:
        Shards, named after all that makes their result.
    """
    return cut_shards(_chosen(job, found, moved=False), _shard_bytes(job, found), _salt(job, "embed"))


def moved_shards(job: Job, found: Changes) -> Iterator[Shard]:
    """Likewise what has moved, whose vectors are there already."""
    return cut_shards(_chosen(job, found, moved=True), _shard_bytes(job, found), _salt(job, "move"))


def _salt(job: Job, work: str) -> str:
    """Everything that makes a shard's result beside its rows: a run with other settings takes none of its receipts."""
    given = job.settings.corpus
    columns = [given.id_column, given.text_columns, job.corpus.skip_empty]
    payload = [[field.name, str(field.type)] for field in job.corpus.payload]
    tables = [job.layout.describe(), job.layout.generation, job.epoch]
    return canonical([job.model.fingerprint, columns, payload, tables, work])


def _shard_bytes(job: Job, found: Changes) -> int:
    """Text bytes of a shard: less for a small job, so that its workers end together.

    It follows from the work alone, never from the workers: a resumed run must cut the same shards.
    """
    text_bytes = found.counts["text_bytes"]
    few = FEWEST_DOCUMENTS * text_bytes // max(found.counts["new"] + found.counts["changed"], 1)
    return min(int(job.settings.run.shard_mb * MIB), max(text_bytes // SHARDS_WANTED, few, SMALLEST_SHARD))


def _chosen(job: Job, found: Changes, *, moved: bool) -> Iterator[ChosenRows]:
    """Rows of every file to embed, or those that have moved."""
    for at in sorted(found.masks):
        file = job.corpus.files[at]
        rows = diff.merge_masks(found.masks[at])
        there = found.moved.filter(pc.field("file") == at)["row"].to_numpy()
        rows = there if moved else np.setdiff1d(rows, there, assume_unique=True)
        if rows.size:
            digest = job.store.digests.read(job.corpus.digest_name(file), ["row", *SIZES, *IDENTITY])
            # A digest is sorted by id.
            places = np.empty(digest.num_rows, np.int64)
            places[digest["row"].to_numpy()] = np.arange(digest.num_rows)
            chosen = digest.take(pa.array(places[rows]))
            text_bytes, payload_bytes = (chosen[name].to_numpy() for name in SIZES)
            yield ChosenRows(file, rows, text_bytes, payload_bytes, chosen.select(IDENTITY))
