"""The corpus against the published epoch: digests of new files, then the difference, a range of ids at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.cluster.connection import SMALL_ROWS, Cluster
from indexer.indexing import diff
from indexer.indexing.diff import RangeDiff
from indexer.indexing.job import Job
from indexer.indexing.scan import Unread
from indexer.settings import Settings
from indexer.storage import tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch


@dataclass(frozen=True)
class Changes:
    """The comparison of a whole corpus.

    Attributes:
        masks: For every file, by its place, packed bits of the rows to embed from each range of ids.
        dropped: Published ids whose rows go, one array per range of ids.
        quarantine: Quarantined rows found without the model.
        moved: Rows whose content a document that is gone had; columns file (place), row, id (the old one).
        differs: Whether there is anything to publish.
        counts: Sums of the ranges' counts.
    """

    masks: dict[int, list[bytes]]
    dropped: list[pa.Array]
    quarantine: list[pa.Table]
    moved: pa.Table
    differs: bool
    counts: dict[str, int]


def compare(job: Job, cluster: Cluster, unread: Mapping[str, Unread]) -> Changes:
    """Compares the corpus with the published epoch, a range of ids per task.

    Args:
        job: The run's inputs.
        cluster: Where tasks run.
        unread: What :func:`scan` gave.
    """
    names = [job.corpus.digest_name(file) for file in job.corpus.files]
    left = {name: file.digest for name, file in unread.items()}
    groups = [group for name in names if name not in left for group in job.store.digests.groups(name)]
    arguments = ((job.settings, names, left, job.published, low, high) for low, high in pairwise(_bounds(groups)))
    small = sum(rows for _, rows in groups) < SMALL_ROWS
    found = list(cluster.map(_compare_range, arguments, in_driver=small))
    merged = reduce(_merged, found, Changes({}, [], [], _NOT_MOVED, differs=False, counts={}))
    return _with_moves(merged, found)


_NOT_MOVED = pa.table(
    {"file": pa.array([], pa.int32()), "row": pa.array([], pa.int64()), "id": pa.array([], pa.string())}
)


def _merged(so_far: Changes, found: RangeDiff) -> Changes:
    for file, mask in found.masks.items():
        so_far.masks.setdefault(file, []).append(mask)
    so_far.dropped.append(found.dropped)
    so_far.quarantine.append(found.quarantine)
    for name, count in found.counts.items():
        so_far.counts[name] = so_far.counts.get(name, 0) + count
    differs = bool(found.masks) or len(found.dropped) > 0 or found.quarantine_changed
    return replace(so_far, differs=so_far.differs or differs)


def _with_moves(merged: Changes, found: Sequence[RangeDiff]) -> Changes:
    """A document that moved is neither new nor deleted."""
    arrivals = [difference.arrivals for difference in found if difference.arrivals.num_rows]
    departures = [difference.departures for difference in found if difference.departures.num_rows]
    moved = _NOT_MOVED
    if arrivals and departures:
        moved = diff.moves(pa.concat_tables(arrivals), pa.concat_tables(departures))
    merged.counts["moved"] = moved.num_rows
    merged.counts["new"] -= moved.num_rows
    merged.counts["deleted"] -= len(pc.unique(moved["id"]))
    return replace(merged, moved=moved)


def _bounds(groups: Sequence[tuple[str | None, int]]) -> list[str | None]:
    """Ids that cut the corpus into ranges of about equal size; ``None`` at both ends.

    Args:
        groups: Least id and number of rows of every row group of the digests.
    """
    rows = sum(count for _, count in groups)
    inner = sorted(least for least, _ in groups if least is not None)
    ranges = -(-rows // diff.RANGE_ROWS)
    cuts = dict.fromkeys(inner[at * len(inner) // ranges] for at in range(1, ranges))
    return [None, *cuts, None]


def _compare_range(
    settings: Settings,
    names: Sequence[str],
    left: Mapping[str, pa.Table],
    published: Epoch | None,
    low: str | None,
    high: str | None,
) -> RangeDiff:
    store = ControlStore(settings.index.uri, settings.index.name)
    columns = schema.DIGEST_SCHEMA.names
    found = (left[name] if name in left else store.digests.read(name, columns, low, high) for name in names)
    digests = [_cut(table, low, high) for table in found]
    return diff.compare(
        digests,
        _published_keys(settings.index.uri, published, low, high),
        _published_quarantine(settings.index.uri, published),
        low,
        high,
        is_update=published is not None,
    )


def _published_keys(uri: str, published: Epoch | None, low: str | None, high: str | None) -> pa.Table:
    columns = [*diff.PUBLISHED_COLUMNS, schema.CHUNK]
    if published is None:
        return pa.schema([*schema.KEY_FIELDS, *schema.HASH_FIELDS]).empty_table().select(columns)
    narrow = published.tables[-1]
    batches = tables.read(uri, narrow.name, narrow.version, columns, low, high)
    kept = [pa.Table.from_batches([batch]).filter(pc.field(schema.CHUNK) == 0) for batch in batches]
    return pa.concat_tables(kept) if kept else _published_keys(uri, None, low, high)


def _published_quarantine(uri: str, published: Epoch | None) -> pa.Table:
    if published is None:
        return schema.QUARANTINE_SCHEMA.empty_table().select(diff.QUARANTINE_COLUMNS)
    name, version = published.quarantine
    chosen = pa.schema([schema.QUARANTINE_SCHEMA.field(column) for column in diff.QUARANTINE_COLUMNS])
    return pa.Table.from_batches(tables.read(uri, name, version, diff.QUARANTINE_COLUMNS), chosen)


def _cut(table: pa.Table, low: str | None, high: str | None) -> pa.Table:
    """Rows of the range of ids; null ids belong to the first one. Cutting early keeps the memory of a range small."""
    if low is not None:
        table = table.filter(pc.field(schema.ID) >= low)
    if high is not None:
        table = table.filter((pc.field(schema.ID) < high) | pc.field(schema.ID).is_null())
    return table
