"""Compares the corpus with the published epoch by their digests, one range of ids at a time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.cluster.connection import SMALL_ROWS, Cluster
from indexer.errors import IndexerError
from indexer.indexing import diff, equal_texts, file_changes, id_ranges, increment, published_rows, unreadable_files
from indexer.indexing.diff import RangeDiff, Unreadable
from indexer.indexing.equal_texts import EqualTexts
from indexer.indexing.file_changes import FileChanges
from indexer.indexing.job import Job
from indexer.indexing.scan import Unread
from indexer.indexing.unreadable_files import NEVER
from indexer.progress import say
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.storage.digest_files import DigestFiles
from indexer.storage.records import Epoch

MOST_COPIED = 1 << 20
"""Most ids with further rows that an epoch lists. With more of them, nights search all ids in unchanged files."""


@dataclass(frozen=True)
class Changes:
    """The comparison of a whole corpus.

    Attributes:
        masks: For every file, by its place in the list, the rows of new and changed documents as
            :func:`indexer.indexing.diff.marked` marks them.
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

    masks: dict[int, np.ndarray]
    payload_masks: dict[int, np.ndarray]
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
        rows = sum(unreadable_files.rows_of(job, file, NEVER) for file in unread.values())
        nothing = replace(_nothing(files.digests), unread_rows=rows)
        merged, found = _folded(_range_diffs(job, cluster, job.published, files), nothing)
        held = job.published.description.documents
        counts = increment.completed(merged.counts, files.corpus_rows, held, merged.copied)
    except IndexerError as error:
        say(f"{error}: comparing the whole corpus", "WARNING")
        return None
    return replace(merged, counts=counts), found


def _range_diffs(job: Job, cluster: Cluster, published: Epoch, files: FileChanges) -> Iterator[RangeDiff]:
    """The differences of all ranges of ids."""
    ranges = id_ranges.cut(job.store.digests, {*files.added.values(), *files.removed})
    names = (job.settings.index.uri, job.settings.index.name, job.scratch)
    arguments = ((names, files, published, low, high) for low, high in ranges.bounds)
    small = job.scratch is not None or ranges.rows < 2 * SMALL_ROWS  # a changed file's rows count twice
    return cluster.map(file_changes.compare_range, arguments, in_driver=small)


def _of_all_files(job: Job, cluster: Cluster, unread: Mapping[str, Unread]) -> tuple[Changes, list[RangeDiff]]:
    """The comparison of the whole corpus."""
    names = [job.corpus.digest_name(file) for file in job.corpus.files]
    read = [name for name in names if name not in unread]
    # An unreadable file keeps the documents it had when it was last read: nothing is deleted because of it.
    last = unreadable_files.last_digests(job, {file.path for file in unread.values()})
    digests = [None if name in unread else name for name in names]
    asked = _Asked(job.settings, job.scratch, digests, last, unreadable_files.left_out(job, unread), job.change.payload)
    # Published documents are held beside those of the corpus: where files are gone, their rows count too.
    published = {*(unreadable_files.published_list(job) or {}).values()} & job.store.digests.names()
    ranges = id_ranges.cut(job.store.digests, {*read, *published})
    arguments = ((asked, job.published, low, high) for low, high in ranges.bounds)
    small = job.scratch is not None or ranges.rows < SMALL_ROWS
    compared = cluster.map(_compare_range, arguments, in_driver=small)
    known = {file.path: name for file, name in zip(job.corpus.files, names, strict=True) if name not in unread}
    rows = sum(unreadable_files.rows_of(job, file, last[file.path]) for file in unread.values())
    return _folded(compared, replace(_nothing(known | last), unread_rows=rows, in_full=True))


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


@dataclass(frozen=True)
class _Asked:
    """Inputs of the comparison, the same for every range of ids.

    Attributes:
        settings: The settings.
        scratch: As :class:`Job` has it.
        digests: Name of every file's digest, ``None`` for an unreadable file.
        last: Result of :func:`indexer.indexing.unreadable_files.last_digests`.
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
        return (
            Unreadable(self.left_out, unreadable_files.ids_of(digests, self.last.values(), low, high))
            if self.last
            else None
        )


def _folded(compared: Iterable[RangeDiff], nothing: Changes) -> tuple[Changes, list[RangeDiff]]:
    """All ranges' differences in one, and each without its rows, which take eight bytes a document and are marked."""
    merged, found = nothing, []
    for difference in compared:
        merged = _merged(merged, difference)
        found.append(replace(difference, rows={}, payload_rows={}))
    return merged, found


def _merged(so_far: Changes, found: RangeDiff) -> Changes:
    """Adds one range's difference to the comparison so far."""
    for masks, by_file in ((so_far.masks, found.rows), (so_far.payload_masks, found.payload_rows)):
        for file, rows in by_file.items():
            masks[file] = diff.marked(masks.get(file), rows)
    so_far.deleted.append(found.deleted)
    so_far.changed.append(found.changed)
    so_far.payload_changed.append(found.payload_changed)
    so_far.quarantine.append(found.quarantine)
    for name, count in found.counts.items():
        so_far.counts[name] = so_far.counts.get(name, 0) + count
    differs = bool(found.rows) or len(found.dropped) > 0 or found.quarantine_changed
    copied = None if so_far.copied is None or found.copied is None else [*so_far.copied, found.copied]
    if copied is not None and sum(part.num_rows for part in copied) > MOST_COPIED:
        copied = None
    return replace(so_far, differs=so_far.differs or differs, copied=copied)


def _with_equal_texts(job: Job, cluster: Cluster, merged: Changes, found: list[RangeDiff]) -> Changes:
    """Finds equal texts over all ranges and takes moved documents out of the counts of new and deleted ones.

    Empties the list of differences.
    """
    # Equal texts may lie in different ranges: only the whole shows them.
    arrivals = np.concatenate([difference.arrivals for difference in found])
    departures = pa.concat_tables([difference.departures for difference in found])
    found.clear()  # the hashes of all new texts would be held twice
    equal = equal_texts.find(job, cluster, merged.masks, arrivals, departures, merged.changed)
    moved = equal.moved.num_rows
    merged.counts["moved"] = moved
    merged.counts["copied"] = equal.copied.num_rows + equal.tonight.num_rows
    merged.counts["new"] -= moved
    # Several new documents may reuse the vectors of one old id, which is deleted once.
    merged.counts["deleted"] -= len(equal.left)
    return replace(merged, equal=equal)


def _compare_range(asked: _Asked, published: Epoch | None, low: str | None, high: str | None) -> RangeDiff:
    """Compares one range of ids; runs in a task, which opens the control files itself."""
    uri = asked.settings.index.uri
    store = ControlStore(uri, asked.settings.index.name, asked.scratch)
    nothing = schema.DIGEST_SCHEMA.empty_table().select(diff.COMPARED)
    found = (store.digests.read(name, diff.COMPARED, low, high) if name else nothing for name in asked.digests)
    return diff.compare(
        (published_rows.cut(table, low, high) for table in found),
        published_rows.published_keys(uri, published, low, high),
        published_rows.published_quarantine(uri, published),
        low,
        high,
        payload_differs=asked.payload_differs,
        unreadable=asked.unreadable(store.digests, low, high),
    )
