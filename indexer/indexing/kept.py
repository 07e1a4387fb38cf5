"""Documents of files that go bad between the comparison and the reading: they stay published as they are."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.indexing.changes import Changes
from indexer.indexing.job import Job
from indexer.indexing.staged import Staged
from indexer.indexing.unreadable_files import NEVER, UNKNOWN, ids_of, last_digests
from indexer.progress import say
from indexer.reasons import QuarantineReason
from indexer.storage import tables
from indexer.storage.records import Receipt


def keep_published(job: Job, found: Changes, staged: Staged) -> Changes:
    """Takes documents whose file could not be read after all out of what the epoch deletes and replaces.

    A changed document keeps its published rows if its new ones could not be read. So does a document that has left the
    file, as if the file had been unreadable from the start.

    Args:
        job: The run's inputs.
        found: The comparison.
        staged: What was staged after it.

    Returns:
        The comparison with these documents counted as kept.
    """
    if job.published is None or not staged.unread:
        return found
    refused = _refused(job, staged.unread)
    last = last_digests(job, refused["file"].unique().to_pylist())
    changed = [_held(ids, refused[schema.ID]) for ids in found.changed]
    payload = [_held(ids, refused[schema.ID]) for ids in found.payload_changed]
    deleted = [_held(ids, ids_of(job.store.digests, last.values())) for ids in found.deleted]
    kept_changed, kept_payload, kept_deleted = (
        sum(len(kept) for kept, _ in parts) for parts in (changed, payload, deleted)
    )
    kept = kept_changed + kept_payload + kept_deleted
    # The old id of a moved document is not among the deleted ones that the comparison counts.
    moved = sum(_count(there, found.equal.left) for there, _ in deleted)
    counts = found.counts | {
        "kept": found.counts["kept"] + kept,
        "changed": found.counts["changed"] - kept_changed,
        "payload_changed": found.counts["payload_changed"] - kept_payload,
        "deleted": found.counts["deleted"] - kept_deleted + moved,
    }
    say(f"{kept:,} documents of files that went bad meanwhile stay published as they are", "WARNING")
    return replace(
        found,
        changed=[rest for _, rest in changed],
        payload_changed=[rest for _, rest in payload],
        deleted=[rest for _, rest in deleted],
        counts=counts,
        digests=found.digests | {path: _both(job, name, found.digests[path]) for path, name in last.items()},
    )


def _refused(job: Job, receipts: Sequence[Receipt]) -> pa.Table:
    """Ids and files of the documents that could not be read."""
    name = job.layout.quarantine
    fragments = [part for receipt in receipts for part in receipt.fragments.get(name, [])]
    rows = list(tables.read_staged(job.settings.index.uri, name, fragments, [schema.ID, "file", "reason"]))
    return pa.Table.from_batches(rows).filter(pc.field("reason") == QuarantineReason.BAD_FILE.value)


def _held(ids: pa.Array, held: pa.Array | pa.ChunkedArray | None) -> tuple[pa.Array, pa.Array]:
    """The ids that are among those held, and the rest; ``None`` holds all."""
    if held is None:
        return ids, ids.slice(0, 0)
    there = pc.is_in(ids, value_set=held)
    return ids.filter(there), ids.filter(pc.invert(there))


def _count(ids: pa.Array, among: pa.Array) -> int:
    """How many of the ids are among others."""
    return len(_held(ids, among)[0])


def _both(job: Job, last: str, now: str) -> str:
    """Name of a digest of all that a file had and has: of both some documents are published, until it can be read."""
    if last in {UNKNOWN, now}:
        return last
    if last == NEVER:
        return now
    digests, columns = job.store.digests, schema.DIGEST_SCHEMA.names
    ours, theirs = digests.read(now, columns), digests.read(last, columns)
    gone = theirs.filter(pc.invert(pc.is_in(theirs[schema.ID], value_set=ours[schema.ID])))
    name = hashlib.blake2b(f"{last}\0{now}".encode(), digest_size=16).hexdigest()
    digests.put(name, pa.concat_tables([ours, gone]).sort_by(schema.ID))
    return name
