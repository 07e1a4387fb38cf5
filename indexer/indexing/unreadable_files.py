"""Files that cannot be read: what they had when they were last read, and their row in the quarantine."""

import hashlib
from collections.abc import Collection, Mapping

import pyarrow as pa

from indexer import schema
from indexer.errors import IndexerError
from indexer.indexing.job import Job
from indexer.indexing.scan import Unread
from indexer.storage.digest_files import DigestFiles

UNKNOWN = ""
"""In an epoch's list of files: a file that could not be read, and whose documents are not known."""

NEVER = "-"
"""Instead of a digest's name: a file that was never read and so has no published document."""


def published_list(job: Job) -> dict[str, str] | None:
    """Of every file that the published epoch was made of the digest, by its path; ``None`` if that is not known."""
    recorded = job.published.description.files if job.published else None
    try:
        return None if recorded is None else job.store.digests.get_list(recorded)
    except IndexerError:
        return None  # somebody deleted the list


def last_digests(job: Job, paths: Collection[str]) -> dict[str, str]:
    """For every unreadable file its digest in the published epoch, :data:`NEVER` or :data:`UNKNOWN`."""
    if not paths:
        return {}
    if job.published is None:
        return dict.fromkeys(paths, NEVER)
    known = published_list(job)
    there = job.store.digests.names() | {NEVER}
    found = {path: UNKNOWN if known is None else known.get(path, NEVER) for path in paths}
    return {path: name if name in there else UNKNOWN for path, name in found.items()}


def ids_of(
    digests: DigestFiles, last: Collection[str], low: str | None = None, high: str | None = None
) -> pa.ChunkedArray | None:
    """Ids in a range, or more, that unreadable files had; ``None`` if that is not known of one.

    Args:
        digests: The digests.
        last: Of every file the digest, as :func:`last_digests` gives it.
        low: Least id wanted, ``None`` for no bound.
        high: Id above the last one wanted, ``None`` for no bound.
    """
    if UNKNOWN in last:
        return None
    ids = [digests.read(name, [schema.ID], low, high)[schema.ID] for name in last if name != NEVER]
    return pa.chunked_array([chunk for found in ids for chunk in found.chunks], pa.string())


def rows_of(job: Job, file: Unread, last: str) -> int:
    """Rows of an unreadable file: by its footer, else by its last digest, at least one."""
    if file.rows is not None:
        return max(1, file.rows)
    if last in (NEVER, UNKNOWN):
        return 1
    return max(1, sum(rows for _, rows in job.store.digests.groups(last)))


def left_out(job: Job, unread: Mapping[str, Unread]) -> pa.Table:
    """One quarantined row per unreadable file; a hash of its path identifies it."""
    places = {at: unread.get(job.corpus.digest_name(file)) for at, file in enumerate(job.corpus.files)}
    rows = []
    for at, file in places.items():
        if file is not None:
            name = hashlib.blake2b(file.path.encode(), digest_size=16).digest()
            hashes = {schema.CONTENT_HASH: name, schema.PAYLOAD_HASH: name[:8]}
            rows.append({"file": at, "row": 0, "reason": file.reason.value, **hashes})
    return pa.Table.from_pylist(rows, _LEFT_OUT_SCHEMA)


_LEFT_OUT_SCHEMA = pa.schema(
    [
        pa.field(schema.ID, pa.string()),
        pa.field("file", pa.int32()),
        pa.field("row", pa.int64()),
        pa.field("reason", pa.string()),
        *schema.HASH_FIELDS,
    ]
)
