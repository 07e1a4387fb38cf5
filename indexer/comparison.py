"""The corpus against the published epoch: digests of new files, then the difference, a range of ids at a time."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import changes, schema, tables
from indexer.changes import Difference
from indexer.cluster import SMALL_BYTES, SMALL_ROWS, Cluster
from indexer.corpus import Shard, cut_shards
from indexer.epochs import ControlStore, Epoch, canonical
from indexer.errors import BadFile, CorpusError, WrongColumns
from indexer.fates import Fate
from indexer.files import DataFile, patiently
from indexer.job import Job
from indexer.progress import say
from indexer.reader import Reader, ReaderProcess
from indexer.settings import Settings

MIB = 1 << 20
SHARDS_WANTED = 64
SMALLEST_SHARD = MIB // 16

FEWEST_DOCUMENTS = 16
"""Documents of a small job's shard at least: of every shard one is embedded once more, to compare."""

FILES_AT_ONCE = 64
"""Most files one task reads: each starts a process for reading, which takes half a second."""


@dataclass(frozen=True)
class Unread:
    """A file that is left out.

    Attributes:
        path: The file.
        fate: Why.
        detail: Likewise, in a sentence.
    """

    path: str
    fate: Fate
    detail: str

    @property
    def digest(self) -> pa.Table:
        """The file's digest: one row that cannot be indexed, told from other files' by its hash."""
        name = hashlib.blake2b(self.path.encode(), digest_size=16).digest()
        row = {schema.CONTENT_HASH: name, schema.PAYLOAD_HASH: name[:8], "row": 0, "text_bytes": 0}
        return pa.Table.from_pylist([row | {"reason": self.fate.value}], schema.DIGEST_SCHEMA)


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


def start_reader(job: Job) -> ReaderProcess:
    """Starts the process in which :func:`scan` reads small corpora; meanwhile the caller can connect to Ray."""
    return ReaderProcess(_reader(job))


def scan(job: Job, cluster: Cluster, reader: ReaderProcess) -> dict[str, Unread]:
    """Records the digest of every file that has none yet.

    Args:
        job: The run's inputs.
        cluster: Where tasks run.
        reader: What :func:`start_reader` gave for the same job; it is ended.

    Returns:
        Files that cannot be read, by the name of their digest; the next run tries them again.

    Raises:
        CorpusError: A file has other columns and ``corpus.strict`` is set.
    """
    known = job.store.digest_names()
    fresh = [file for file in job.corpus.files if job.corpus.digest_name(file) not in known]
    if len(fresh) > 1:
        say(f"reading {len(fresh)} new or changed files of {len(job.corpus.files)}")
    with reader as process:
        if sum(file.size for file in fresh) < SMALL_BYTES:
            unread = _scan_some(process, job.settings.corpus.uri, fresh)
        else:
            unread = _scan_on(cluster, job, fresh)
    for file, left in unread:
        if left.fate is Fate.WRONG_COLUMNS and job.settings.corpus.strict:
            raise CorpusError(f"{left.detail}; corpus.strict = false leaves such files out")
        say(f"{file.path} is left out: {left.detail}")
    return {job.corpus.digest_name(file): left for file, left in unread}


def _reader(job: Job) -> Reader:
    return Reader(replace(job.corpus, files=()), job.settings.index.uri, job.settings.index.name)


def _scan_on(cluster: Cluster, job: Job, files: Sequence[DataFile]) -> list[tuple[DataFile, Unread]]:
    together = min(FILES_AT_ONCE, -(-len(files) // (4 * cluster.cores)))
    arguments = ((_reader(job), files[at : at + together]) for at in range(0, len(files), together))
    return [left for found in cluster.map(_scan_apart, arguments) for left in found]


def _scan_apart(reader: Reader, files: Sequence[DataFile]) -> list[tuple[DataFile, Unread]]:
    with ReaderProcess(reader) as process:
        return _scan_some(process, reader.corpus.settings.uri, files)


def _scan_some(process: ReaderProcess, uri: str, files: Sequence[DataFile]) -> list[tuple[DataFile, Unread]]:
    unread = []
    for file in files:
        try:
            patiently(uri, partial(process.digest, file))
        except BadFile as error:
            unread.append((file, Unread(file.path, Fate.BAD_FILE, str(error))))
        except WrongColumns as error:
            unread.append((file, Unread(file.path, Fate.WRONG_COLUMNS, str(error))))
    return unread


def compare(job: Job, cluster: Cluster, unread: Mapping[str, Unread]) -> Changes:
    """Compares the corpus with the published epoch, a range of ids per task.

    Args:
        job: The run's inputs.
        cluster: Where tasks run.
        unread: What :func:`scan` gave.
    """
    names = [job.corpus.digest_name(file) for file in job.corpus.files]
    left = {name: file.digest for name, file in unread.items()}
    groups = [group for name in names if name not in left for group in job.store.digest_groups(name)]
    arguments = ((job.settings, names, left, job.published, low, high) for low, high in pairwise(_bounds(groups)))
    small = sum(rows for _, rows in groups) < SMALL_ROWS
    found = list(cluster.map(_compare_range, arguments, here=small))
    merged = reduce(_merged, found, Changes({}, [], [], _NOT_MOVED, differs=False, counts={}))
    return _with_moves(merged, found)


_NOT_MOVED = pa.table(
    {"file": pa.array([], pa.int32()), "row": pa.array([], pa.int64()), "id": pa.array([], pa.string())}
)


def _merged(so_far: Changes, found: Difference) -> Changes:
    for file, mask in found.masks.items():
        so_far.masks.setdefault(file, []).append(mask)
    so_far.dropped.append(found.dropped)
    so_far.quarantine.append(found.quarantine)
    for name, count in found.counts.items():
        so_far.counts[name] = so_far.counts.get(name, 0) + count
    differs = bool(found.masks) or len(found.dropped) > 0 or found.quarantine_changed
    return replace(so_far, differs=so_far.differs or differs)


def _with_moves(merged: Changes, found: Sequence[Difference]) -> Changes:
    """A document that moved is neither new nor deleted."""
    arrivals = [difference.arrivals for difference in found if difference.arrivals.num_rows]
    departures = [difference.departures for difference in found if difference.departures.num_rows]
    moved = _NOT_MOVED
    if arrivals and departures:
        moved = changes.moves(pa.concat_tables(arrivals), pa.concat_tables(departures))
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
    ranges = -(-rows // changes.RANGE_ROWS)
    cuts = dict.fromkeys(inner[at * len(inner) // ranges] for at in range(1, ranges))
    return [None, *cuts, None]


def _compare_range(
    settings: Settings,
    names: Sequence[str],
    left: Mapping[str, pa.Table],
    published: Epoch | None,
    low: str | None,
    high: str | None,
) -> Difference:
    store = ControlStore(settings.index.uri, settings.index.name)
    columns = schema.DIGEST_SCHEMA.names
    found = (left[name] if name in left else store.digest(name, columns, low, high) for name in names)
    digests = [_cut(table, low, high) for table in found]
    return changes.compare(
        digests,
        _published_keys(settings.index.uri, published, low, high),
        _published_quarantine(settings.index.uri, published),
        low,
        high,
        is_update=published is not None,
    )


def _published_keys(uri: str, published: Epoch | None, low: str | None, high: str | None) -> pa.Table:
    columns = [*changes.PUBLISHED_COLUMNS, schema.CHUNK]
    if published is None:
        return pa.schema([*schema.KEY_FIELDS, *schema.HASH_FIELDS]).empty_table().select(columns)
    narrow = published.tables[-1]
    batches = tables.read(uri, narrow.name, narrow.version, columns, low, high)
    kept = [pa.Table.from_batches([batch]).filter(pc.field(schema.CHUNK) == 0) for batch in batches]
    return pa.concat_tables(kept) if kept else _published_keys(uri, None, low, high)


def _published_quarantine(uri: str, published: Epoch | None) -> pa.Table:
    if published is None:
        return schema.QUARANTINE_SCHEMA.empty_table().select(changes.QUARANTINE_COLUMNS)
    name, version = published.quarantine
    chosen = pa.schema([schema.QUARANTINE_SCHEMA.field(column) for column in changes.QUARANTINE_COLUMNS])
    return pa.Table.from_batches(tables.read(uri, name, version, changes.QUARANTINE_COLUMNS), chosen)


def _cut(table: pa.Table, low: str | None, high: str | None) -> pa.Table:
    """Rows of the range of ids; null ids belong to the first one. Cutting early keeps the memory of a range small."""
    if low is not None:
        table = table.filter(pc.field(schema.ID) >= low)
    if high is not None:
        table = table.filter((pc.field(schema.ID) < high) | pc.field(schema.ID).is_null())
    return table


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
    return canonical([job.model.fingerprint, job.layout.describe(), job.layout.generation, job.epoch, work])


def _shard_bytes(job: Job, found: Changes) -> int:
    """Text bytes of a shard: less for a small job, so that its workers end together.

    It follows from the work alone, never from the workers: a resumed run must cut the same shards.
    """
    text_bytes = found.counts["text_bytes"]
    few = FEWEST_DOCUMENTS * text_bytes // max(found.counts["new"] + found.counts["changed"], 1)
    return min(int(job.settings.run.shard_mb * MIB), max(text_bytes // SHARDS_WANTED, few, SMALLEST_SHARD))


def _chosen(job: Job, found: Changes, *, moved: bool) -> Iterator[tuple[DataFile, np.ndarray, np.ndarray]]:
    """Rows of every file to embed, or those that have moved, with the size of their texts."""
    for at in sorted(found.masks):
        file = job.corpus.files[at]
        rows = changes.merge_masks(found.masks[at])
        there = found.moved.filter(pc.field("file") == at)["row"].to_numpy()
        rows = there if moved else np.setdiff1d(rows, there, assume_unique=True)
        if rows.size:
            digest = job.store.digest(job.corpus.digest_name(file), ["row", "text_bytes"])
            sizes = np.empty(digest.num_rows, np.int64)
            sizes[digest["row"].to_numpy()] = digest["text_bytes"].to_numpy()
            yield file, rows, sizes[rows]
