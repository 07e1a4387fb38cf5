"""Cuts the documents of a night into shards."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

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


class WorkKind(StrEnum):
    """What is done with a shard; part of its name."""

    EMBED = "embed"
    MOVE = "move"
    COPY = "copy"
    PAYLOAD = "payload"
    COPY_TONIGHT = "copy tonight"
    EMBED_LEFT = "embed left"


def shards(job: Job, found: Changes, work: WorkKind = WorkKind.EMBED, left: pa.Table | None = None) -> Iterator[Shard]:
    """Cuts the documents of a kind of work; the same job gives the same shards whenever it runs.

    Args:
        job: The run's inputs.
        found: The comparison.
        work: The kind of work.
        left: Columns file and row of the documents of the last two kinds.

    Yields:
        Shards, named after everything that makes their result.
    """
    masks = found.payload_masks if work is WorkKind.PAYLOAD else found.masks
    equal = found.equal
    rows = {WorkKind.MOVE: equal.moved, WorkKind.COPY: equal.copied}.get(work, left)

    def rows_of(at: int) -> np.ndarray:
        if rows is not None:
            return _rows_at(rows, at)
        others = [_rows_at(table, at) for table in (equal.stored, equal.tonight) if work is WorkKind.EMBED]
        return np.setdiff1d(diff.marked_rows(masks[at]), np.concatenate([np.empty(0, np.int64), *others]))

    return cut_shards(_chosen(job, masks, rows_of), _shard_bytes(job, found), _salt(job, work))


def _rows_at(table: pa.Table, at: int) -> np.ndarray:
    """Rows of one file in a table with the columns file and row."""
    return np.asarray(table.filter(pc.field("file") == at)["row"].to_numpy())


def _salt(job: Job, work: WorkKind) -> str:
    """Everything beside its rows that makes a shard's result, so that other settings never reuse its receipt."""
    given = job.settings.corpus
    columns = [given.id_column, given.text_columns, job.corpus.skip_empty]
    payload = [[field.name, str(field.type)] for field in job.corpus.payload]
    tables = [job.layout.describe(), job.layout.generation, job.epoch]
    return canonical([job.model.fingerprint, columns, payload, tables, work.value])


def _shard_bytes(job: Job, found: Changes) -> int:
    """Text bytes of a shard; fewer for a small job, so that its workers end together.

    The size depends on the work alone, never on the workers: a resumed run must cut the same shards.
    """
    text_bytes = found.counts["text_bytes"]
    few = FEWEST_DOCUMENTS * text_bytes // max(found.counts["new"] + found.counts["changed"], 1)
    return min(int(job.settings.run.shard_mb * MIB), max(text_bytes // SHARDS_WANTED, few, SMALLEST_SHARD))


def _chosen(job: Job, masks: Mapping[int, np.ndarray], rows_of: Callable[[int], np.ndarray]) -> Iterator[ChosenRows]:
    """The rows of every file, with their sizes and hashes."""
    for at in sorted(masks):
        file = job.corpus.files[at]
        rows = rows_of(at)
        if rows.size:
            digest = job.store.digests.read(job.corpus.digest_name(file), ["row", *SIZES, *IDENTITY])
            # A digest is sorted by id: find the place of each row number in it.
            places = np.empty(digest.num_rows, np.int64)
            places[digest["row"].to_numpy()] = np.arange(digest.num_rows)
            chosen = digest.take(pa.array(places[rows]))
            text_bytes, payload_bytes = (chosen[name].to_numpy() for name in SIZES)
            yield ChosenRows(file, rows, text_bytes, payload_bytes, chosen.select(IDENTITY))
