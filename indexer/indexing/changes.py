"""Compares the corpus with the published epoch by their digests, one range of ids at a time."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.cluster.connection import SMALL_ROWS, Cluster
from indexer.errors import IndexerError
from indexer.indexing import diff, equal_texts, file_changes, increment, published_rows
from indexer.indexing.diff import RangeDiff, Unreadable
from indexer.indexing.equal_texts import EqualTexts
from indexer.indexing.file_changes import FileChanges
from indexer.indexing.job import Job
from indexer.indexing.scan import Unread
from indexer.progress import say
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.storage.digest_files import DigestFiles
from indexer.storage.records import Epoch

UNKNOWN = ""
"""In an epoch's list of files: a file that could not be read, and whose documents are not known."""


MOST_COPIED = 1 << 20
"""Most ids with further rows that an epoch lists. With more of them, nights search all ids in unchanged files."""


@dataclass(frozen=True)
class Changes:
    """The comparison of a whole corpus.

    Attributes:
        masks: For every file, by its place in the list, packed bits of the rows of new and changed documents, one array
            per range.
        payload_masks: Rows of the documents of which only the payload changed, likewise.
        deleted: Published ids whose rows are deleted, one array per range of ids.
        changed: Published ids whose rows are replaced since their text changed, one array per range of ids.
        payload_changed: Published ids whose rows are replaced since only their payload changed, likewise.
        quarantine: Quarantined rows found without the model.
        equal: New and changed documents whose vectors exist.
        copied: Ids with further rows of the same text, one table per range, as in
            :class:`indexer.indexing.diff.RangeDiff`; ``None`` if they are not known, or too many.
        differs: Whether there is anything to publish.
        counts: Sums of the ranges' counts.
        digests: Name of the digest of every file by its path; an unreadable file keeps its last one.
        unread_rows: Rows of the unreadable files, as far as they are known.
        in_full: Whether the whole corpus was compared.
    """

    masks: dict[int, list[bytes]]
    payload_masks: dict[int, list[bytes]]
    deleted: list[pa.Array]
    changed: list[pa.Array]
    payload_changed: list[pa.Array]
    quarantine: list[pa.Table]
    equal: EqualTexts
    copied: list[pa.Table] | None
    differs: bool
    counts: dict[str, int]
    digests: dict[str, str]
    unread_rows: int
    in_full: bool


def compare(job: Job, cluster: Cluster, unread: Mapping[str, Unread]) -> Changes:
    """Compares the corpus with the published epoch, a range of ids per task.

    Only documents of files that were added, changed or removed are looked at, if the epoch tells enough for that.

    Args:
        job: The run's inputs.
        cluster: Where tasks run.
        unread: Result of :func:`scan`.
    """
    merged, found = _of_changed_files(job, cluster, unread) or _of_all_files(job, cluster, unread)
    return _with_equal_texts(job, cluster, merged, found)


def _of_changed_files(
    job: Job, cluster: Cluster, unread: Mapping[str, Unread]
) -> tuple[Changes, list[RangeDiff]] | None:
    """The comparison of the files that differ from those of the published epoch; ``None`` where it does not suffice."""
    files = file_changes.since_published(job, unread)
    if job.published is None or files is None:
        return None
    try:
        found = list(_range_diffs(job, cluster, job.published, files))
        digests = {file.path: job.corpus.digest_name(file) for file in job.corpus.files}
        merged = reduce(_merged, found, _nothing(digests))
        held = job.published.description.documents
        counts = increment.completed(merged.counts, files.corpus_rows, held, merged.copied)
    except IndexerError as error:
        say(f"{error}: comparing the whole corpus", "WARNING")
        return None
    return replace(merged, counts=counts), found


def _range_diffs(job: Job, cluster: Cluster, published: Epoch, files: FileChanges) -> Iterator[RangeDiff]:
    """The differences of all ranges of ids."""
    added, removed = ([group for name in names for group in job.store.digests.groups(name)] for names in files.names)
    names = (job.settings.index.uri, job.settings.index.name, job.scratch)
    arguments = ((names, files, published, low, high) for low, high in pairwise(_bounds(added + removed)))
    small = job.scratch is not None or max(_rows_of(added), _rows_of(removed)) < SMALL_ROWS
    return cluster.map(file_changes.compare_range, arguments, in_driver=small)


def _of_all_files(job: Job, cluster: Cluster, unread: Mapping[str, Unread]) -> tuple[Changes, list[RangeDiff]]:
    """The comparison of the whole corpus."""
    names = [job.corpus.digest_name(file) for file in job.corpus.files]
    read = [name for name in names if name not in unread]
    # An unreadable file keeps the documents it had when it was last read: nothing is deleted because of it.
    last = last_digests(job, {file.path for file in unread.values()})
    digests = [None if name in unread else name for name in names]
    asked = _Asked(job.settings, job.scratch, digests, last, _left_out(job, unread), job.change.payload)
    # Digests are sorted by id: the least ids of their row groups cut the corpus into ranges of about equal size.
    groups = [group for name in read for group in job.store.digests.groups(name)]
    arguments = ((asked, job.published, low, high) for low, high in pairwise(_bounds(groups)))
    small = job.scratch is not None or _rows_of(groups) < SMALL_ROWS
    found = list(cluster.map(_compare_range, arguments, in_driver=small))
    known = {file.path: name for file, name in zip(job.corpus.files, names, strict=True) if name not in unread}
    rows = sum(_rows(job, file, last[file.path]) for file in unread.values())
    nothing = replace(_nothing(known | last), unread_rows=rows, in_full=True)
    return reduce(_merged, found, nothing), found


def _nothing(digests: dict[str, str]) -> Changes:
    """The comparison of no range."""
    return Changes(
        masks={},
        payload_masks={},
        deleted=[],
        changed=[],
        payload_changed=[],
        quarantine=[],
        equal=equal_texts.NONE,
        copied=[],
        differs=False,
        counts={},
        digests=digests,
        unread_rows=0,
        in_full=False,
    )


def _rows_of(groups: Sequence[tuple[str | None, int]]) -> int:
    """Rows of row groups of digests."""
    return sum(rows for _, rows in groups)


@dataclass(frozen=True)
class _Asked:
    """Inputs of the comparison, the same for every range of ids.

    Attributes:
        settings: The settings.
        scratch: As :class:`Job` has it.
        digests: Name of every file's digest, ``None`` for an unreadable file.
        last: Result of :func:`last_digests`.
        left_out: One row per unreadable file, as in :class:`indexer.indexing.diff.Unreadable`.
        payload_differs: Whether the payload's columns differ from the published ones.
    """

    settings: Settings
    scratch: str | None
    digests: list[str | None]
    last: dict[str, str]
    left_out: pa.Table
    payload_differs: bool

    def unreadable(self, digests: DigestFiles, low: str | None, high: str | None) -> Unreadable | None:
        """The unreadable files, with their possible ids in a range."""
        return Unreadable(self.left_out, ids_of(digests, self.last.values(), low, high)) if self.last else None


NEVER = "-"
"""Instead of a digest's name: a file that was never read and so has no published document."""


def last_digests(job: Job, paths: Collection[str]) -> dict[str, str]:
    """For every unreadable file its digest in the published epoch, :data:`NEVER` or :data:`UNKNOWN`."""
    if not paths:
        return {}
    if job.published is None:
        return dict.fromkeys(paths, NEVER)
    recorded = job.published.description.files
    known = job.store.digests.get_list(recorded) if recorded else {}
    there = job.store.digests.names() | {NEVER}
    found = {path: known.get(path, NEVER if recorded else UNKNOWN) for path in paths}
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


def _rows(job: Job, file: Unread, last: str) -> int:
    """Rows of an unreadable file: by its footer, else by its last digest, at least one."""
    if file.rows is not None:
        return max(1, file.rows)
    if last in (NEVER, UNKNOWN):
        return 1
    return max(1, sum(rows for _, rows in job.store.digests.groups(last)))


def _left_out(job: Job, unread: Mapping[str, Unread]) -> pa.Table:
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


def _merged(so_far: Changes, found: RangeDiff) -> Changes:
    """Adds one range's difference to the comparison so far."""
    for merged, masks in ((so_far.masks, found.masks), (so_far.payload_masks, found.payload_masks)):
        for file, mask in masks.items():
            merged.setdefault(file, []).append(mask)
    so_far.deleted.append(found.deleted)
    so_far.changed.append(found.changed)
    so_far.payload_changed.append(found.payload_changed)
    so_far.quarantine.append(found.quarantine)
    for name, count in found.counts.items():
        so_far.counts[name] = so_far.counts.get(name, 0) + count
    differs = bool(found.masks) or len(found.dropped) > 0 or found.quarantine_changed
    copied = None if so_far.copied is None or found.copied is None else [*so_far.copied, found.copied]
    if copied is not None and sum(part.num_rows for part in copied) > MOST_COPIED:
        copied = None
    return replace(so_far, differs=so_far.differs or differs, copied=copied)


def _with_equal_texts(job: Job, cluster: Cluster, merged: Changes, found: Sequence[RangeDiff]) -> Changes:
    """Finds equal texts over all ranges and takes moved documents out of the counts of new and deleted ones."""
    # Equal texts may lie in different ranges: only the whole shows them.
    arrivals = np.concatenate([difference.arrivals for difference in found])
    departures = pa.concat_tables([difference.departures for difference in found])
    equal = equal_texts.find(job, cluster, merged.masks, arrivals, departures, merged.changed)
    moved = equal.moved.num_rows
    merged.counts["moved"] = moved
    merged.counts["copied"] = equal.copied.num_rows + equal.tonight.num_rows
    merged.counts["new"] -= moved
    # Several new documents may reuse the vectors of one old id, which is deleted once.
    merged.counts["deleted"] -= len(equal.left)
    return replace(merged, equal=equal)


def _bounds(groups: Sequence[tuple[str | None, int]]) -> list[str | None]:
    """Ids that cut the corpus into ranges of about equal size; ``None`` at both ends.

    Args:
        groups: Least id and number of rows of every row group of the digests.
    """
    rows = _rows_of(groups)
    inner = sorted(least for least, _ in groups if least is not None)
    ranges = -(-rows // diff.RANGE_ROWS)
    cuts = dict.fromkeys(inner[at * len(inner) // ranges] for at in range(1, ranges))
    return [None, *cuts, None]


def _compare_range(asked: _Asked, published: Epoch | None, low: str | None, high: str | None) -> RangeDiff:
    """Compares one range of ids; runs in a task, which opens the control files itself."""
    uri = asked.settings.index.uri
    store = ControlStore(uri, asked.settings.index.name, asked.scratch)
    columns = schema.DIGEST_SCHEMA.names
    nothing = schema.DIGEST_SCHEMA.empty_table()
    found = (store.digests.read(name, columns, low, high) if name else nothing for name in asked.digests)
    return diff.compare(
        [published_rows.cut(table, low, high) for table in found],
        published_rows.published_keys(uri, published, low, high),
        published_rows.published_quarantine(uri, published),
        low,
        high,
        payload_differs=asked.payload_differs,
        unreadable=asked.unreadable(store.digests, low, high),
    )
