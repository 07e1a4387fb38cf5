"""Finds texts whose vectors exist: in the published epoch, in a later one that is kept, or under an id of tonight."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.cluster.connection import SMALL_ROWS, Cluster
from indexer.indexing.diff import hash_prefixes, marked_rows
from indexer.indexing.job import Job
from indexer.storage import lookups, pieces, scalar_indices
from indexer.storage.control import ControlStore
from indexer.storage.pieces import TablePiece
from indexer.storage.records import Epoch, TableState

PIECE_ROWS = 1 << 20
"""Rows of a published table that one task looks through."""

LOOKED_UP = 20_000
"""Most texts whose hashes are looked up in the index; for more, a published table is looked through."""


@dataclass(frozen=True)
class EqualTexts:
    """New and changed documents that need no engine.

    Attributes:
        stored: Documents whose text an epoch has; columns file (place in the list), row, epoch, source (the id there),
            is_moved (whether the document is new and one with its text is deleted), sorted by file and row.
        tonight: Documents whose text another document of tonight has, which is embedded; columns file, row, source
            (that document's id), sorted likewise.
        left: Ids of the deleted documents that the moved ones come from.
    """

    stored: pa.Table
    tonight: pa.Table
    left: pa.Array

    @property
    def moved(self) -> pa.Table:
        """The stored documents that only got another id."""
        return self.stored.filter(self.stored["is_moved"])

    @property
    def copied(self) -> pa.Table:
        """The other stored documents."""
        return self.stored.filter(pc.invert(self.stored["is_moved"]))


STORED_SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("row", pa.int64()),
        ("epoch", pa.int64()),
        ("source", pa.string()),
        ("is_moved", pa.bool_()),
    ]
)

TONIGHT_SCHEMA = pa.schema([("file", pa.int32()), ("row", pa.int64()), ("source", pa.string())])

NONE = EqualTexts(STORED_SCHEMA.empty_table(), TONIGHT_SCHEMA.empty_table(), pa.array([], pa.string()))


def find(
    job: Job,
    cluster: Cluster,
    masks: dict[int, np.ndarray],
    arrivals: np.ndarray,
    departures: pa.Table,
    changed: Sequence[pa.Array],
) -> EqualTexts:
    """Finds the documents of tonight whose vectors exist.

    Sixteen bytes of every text would not fit into one process. So the first eight bytes tell which texts may be equal,
    and only these are read again.

    Args:
        job: The run's inputs.
        cluster: Where tasks run.
        masks: New and changed documents, as in :class:`indexer.indexing.changes.Changes`.
        arrivals: Their hashes' first eight bytes, uint64; they are sorted in place.
        departures: Columns content_hash, id of the deleted documents.
        changed: Published ids whose text changed.
    """
    # In place and without counts: with all that numpy.unique makes, eight bytes a text would become forty.
    arrivals.sort()
    is_first = np.append(np.ones(min(1, arrivals.size), bool), arrivals[1:] != arrivals[:-1])
    prefixes, doubled = arrivals[is_first], arrivals[~is_first]
    few = _arrived_in(job, cluster, masks, prefixes, arrivals.size) if 0 < arrivals.size <= LOOKED_UP else None
    known = _known(job, cluster, prefixes, None if few is None else few[schema.CONTENT_HASH].unique())
    wanted = np.union1d(doubled, hash_prefixes(known[schema.CONTENT_HASH].to_arrow()))
    if not wanted.size:
        return NONE
    arrived = _arrived_in(job, cluster, masks, wanted, arrivals.size) if few is None else few
    published = pl.concat([pl.Series(schema.ID, [], pl.String), *(pl.Series(pl.from_arrow(ids)) for ids in changed)])
    return _matched(arrived, known, pl.DataFrame(pl.from_arrow(departures)), published)


def _arrived_in(
    job: Job, cluster: Cluster, masks: dict[int, np.ndarray], prefixes: np.ndarray, documents: int
) -> pl.DataFrame:
    """New and changed documents whose hashes begin with one of the prefixes, by file and row."""
    scratch = (job.settings.index.uri, job.settings.index.name, job.scratch)
    files = ((scratch, job.corpus.digest_name(job.corpus.files[at]), at, masks[at], prefixes) for at in sorted(masks))
    found = list(cluster.map(_arrived, files, in_driver=job.scratch is not None or documents < SMALL_ROWS))
    return pl.concat([pl.DataFrame(pl.from_arrow(part)) for part in found]).sort("file", "row")


def _matched(arrived: pl.DataFrame, known: pl.DataFrame, departures: pl.DataFrame, published: pl.Series) -> EqualTexts:
    """Joins the documents that may have equals with these, by the whole hash."""
    # Of several deleted documents with one text, the least id counts: every run chooses the same.
    gone = departures.sort(schema.ID).unique(schema.CONTENT_HASH, keep="first")
    is_new = ~pl.col(schema.ID).is_in(published.implode())
    is_moved = is_new & pl.col(schema.CONTENT_HASH).is_in(gone[schema.CONTENT_HASH].implode())
    stored = arrived.join(known.rename({schema.ID: "source"}), on=schema.CONTENT_HASH).with_columns(is_moved=is_moved)
    # The first document with a text is embedded; "arrived" is sorted by file and row.
    fresh = arrived.join(known, on=schema.CONTENT_HASH, how="anti").sort("file", "row")
    first = pl.col(schema.ID).first().over(schema.CONTENT_HASH)
    tonight = fresh.with_columns(source=first).filter(pl.col("source") != pl.col(schema.ID))
    left = gone.join(stored.filter("is_moved"), on=schema.CONTENT_HASH, how="semi")[schema.ID].to_arrow()
    return EqualTexts(_sorted(stored, STORED_SCHEMA), _sorted(tonight, TONIGHT_SCHEMA), left.cast(pa.string()))


def _sorted(rows: pl.DataFrame, target: pa.Schema) -> pa.Table:
    """The rows by file and row, in a schema."""
    return rows.select(target.names).sort("file", "row").to_arrow().cast(target)


def _known(job: Job, cluster: Cluster, prefixes: np.ndarray, hashes: pl.Series | None) -> pl.DataFrame:
    """For every text that an epoch may have its hash, the epoch and the least id there; the newest epoch counts.

    Args:
        job: The run's inputs.
        cluster: Where tasks run.
        prefixes: First eight bytes of the texts' hashes, uint64.
        hashes: The whole hashes, if they are few enough to be looked up.
    """
    nothing = {"epoch": pl.Int64, schema.CONTENT_HASH: pl.Binary, schema.ID: pl.String}
    known = [pl.DataFrame(schema=nothing)]
    uri = job.settings.index.uri
    for epoch in job.reusable if prefixes.size else ():
        narrow = epoch.tables[-1]
        if hashes is not None and scalar_indices.has_contents(uri, narrow.name, narrow.version):
            found = [_looked_up(uri, narrow, hashes)]
        else:
            found = list(cluster.map(_published, _looked_through(job, epoch, prefixes), in_driver=_is_small(epoch)))
        rows = pl.concat([pl.DataFrame(schema=nothing).drop("epoch"), *(pl.DataFrame(pl.from_arrow(p)) for p in found)])
        least = rows.sort(schema.ID).unique(schema.CONTENT_HASH, keep="first")
        known.append(least.select(pl.lit(epoch.number, pl.Int64).alias("epoch"), schema.CONTENT_HASH, schema.ID))
        prefixes = np.setdiff1d(prefixes, hash_prefixes(least[schema.CONTENT_HASH].to_arrow()))
        if not prefixes.size:
            break
    return pl.concat(known).unique(schema.CONTENT_HASH, keep="first", maintain_order=True)


def _looked_up(uri: str, table: TableState, hashes: pl.Series) -> pa.Table:
    """Columns content_hash and id of published documents with one of the hashes, through their index."""
    columns = [schema.ID, schema.CHUNK, schema.CONTENT_HASH]
    rows = lookups.lookup_contents(uri, table.name, table.version, hashes.to_list(), columns)
    return rows.filter(pc.field(schema.CHUNK) == 0).select(_PUBLISHED_SCHEMA.names).cast(_PUBLISHED_SCHEMA)


def _looked_through(job: Job, epoch: Epoch, prefixes: np.ndarray) -> list[tuple[str, TablePiece, np.ndarray]]:
    """Arguments of :func:`_published` for a whole epoch."""
    uri, narrow = job.settings.index.uri, epoch.tables[-1]
    return [(uri, piece, prefixes) for piece in pieces.cut(uri, narrow.name, narrow.version, PIECE_ROWS)]


def _is_small(epoch: Epoch) -> bool:
    """Whether an epoch is looked through faster here than in new processes."""
    return epoch.tables[-1].rows < SMALL_ROWS


def _published(uri: str, piece: TablePiece, prefixes: np.ndarray) -> pa.Table:
    """Columns content_hash and id of published documents whose hashes begin with one of the prefixes."""
    found = [_PUBLISHED_SCHEMA.empty_table()]
    for batch in pieces.read(uri, piece, [schema.ID, schema.CHUNK, schema.CONTENT_HASH]):
        rows = pa.Table.from_batches([batch]).filter(pc.field(schema.CHUNK) == 0)
        rows = rows.filter(pa.array(np.isin(hash_prefixes(rows[schema.CONTENT_HASH]), prefixes)))
        found.append(rows.select([schema.CONTENT_HASH, schema.ID]).cast(_PUBLISHED_SCHEMA))
    return pa.concat_tables(found)


_PUBLISHED_SCHEMA = pa.schema([(schema.CONTENT_HASH, pa.binary()), (schema.ID, pa.string())])


def _arrived(
    store: tuple[str, str, str | None], digest: str, at: int, mask: np.ndarray, prefixes: np.ndarray
) -> pa.Table:
    """Rows of one file that are new or changed and whose hashes begin with one of the prefixes."""
    rows = ControlStore(*store).digests.read(digest, ["row", schema.ID, schema.CONTENT_HASH])
    is_wanted = np.isin(hash_prefixes(rows[schema.CONTENT_HASH]), prefixes)
    is_wanted &= np.isin(rows["row"].to_numpy(), marked_rows(mask))
    rows = rows.filter(pa.array(is_wanted)).append_column("file", pa.repeat(pa.scalar(at, pa.int32()), is_wanted.sum()))
    return rows.select(_FOUND_SCHEMA.names).cast(_FOUND_SCHEMA)


_FOUND_SCHEMA = pa.schema(
    [("file", pa.int32()), ("row", pa.int64()), (schema.ID, pa.string()), (schema.CONTENT_HASH, pa.binary())]
)
