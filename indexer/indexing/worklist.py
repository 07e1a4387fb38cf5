"""Cuts the documents to embed into shards."""

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
"""Shards of a large job. A worker holds three at a time, and smaller shards let all workers end together."""

SMALLEST_SHARD = MIB // 16

FEWEST_DOCUMENTS = 16
"""Least documents of a small job's shard: every shard embeds one of its documents again, to compare."""


def shards(job: Job, found: Changes) -> Iterator[Shard]:
    """Cuts the documents to embed; the same job gives the same shards whenever it runs.

    Args:
        job: The run's inputs.
        found: The comparison.

    Yields:
        Shards, named after everything that makes their result.
    """
    return cut_shards(_chosen(job, found, moved=False), _shard_bytes(job, found), _salt(job, "embed"))


def moved_shards(job: Job, found: Changes) -> Iterator[Shard]:
    """Cuts the moved documents, whose vectors are published already, like :func:`shards`."""
    return cut_shards(_chosen(job, found, moved=True), _shard_bytes(job, found), _salt(job, "move"))


def _salt(job: Job, work: str) -> str:
    """Everything beside its rows that makes a shard's result, so that other settings never reuse its receipt."""
    given = job.settings.corpus
    columns = [given.id_column, given.text_columns, job.corpus.skip_empty]
    payload = [[field.name, str(field.type)] for field in job.corpus.payload]
    tables = [job.layout.describe(), job.layout.generation, job.epoch]
    return canonical([job.model.fingerprint, columns, payload, tables, work])


def _shard_bytes(job: Job, found: Changes) -> int:
    """Text bytes of a shard; fewer for a small job, so that its workers end together.

    The size depends on the work alone, never on the workers: a resumed run must cut the same shards.
    """
    text_bytes = found.counts["text_bytes"]
    few = FEWEST_DOCUMENTS * text_bytes // max(found.counts["new"] + found.counts["changed"], 1)
    return min(int(job.settings.run.shard_mb * MIB), max(text_bytes // SHARDS_WANTED, few, SMALLEST_SHARD))


def _chosen(job: Job, found: Changes, *, moved: bool) -> Iterator[ChosenRows]:
    """Rows to embed of every file, or its moved rows."""
    for at in sorted(found.masks):
        file = job.corpus.files[at]
        rows = diff.merge_masks(found.masks[at])
        there = found.moved.filter(pc.field("file") == at)["row"].to_numpy()
        rows = there if moved else np.setdiff1d(rows, there, assume_unique=True)
        if rows.size:
            digest = job.store.digests.read(job.corpus.digest_name(file), ["row", *SIZES, *IDENTITY])
            # A digest is sorted by id: find the place of each row number in it.
            places = np.empty(digest.num_rows, np.int64)
            places[digest["row"].to_numpy()] = np.arange(digest.num_rows)
            chosen = digest.take(pa.array(places[rows]))
            text_bytes, payload_bytes = (chosen[name].to_numpy() for name in SIZES)
            yield ChosenRows(file, rows, text_bytes, payload_bytes, chosen.select(IDENTITY))
