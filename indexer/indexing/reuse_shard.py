"""Documents whose vectors exist: of the same text in an epoch, or staged tonight. Nothing is embedded."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.corpus.documents import DocumentBatch, read_part
from indexer.corpus.shards import FileRows, Shard
from indexer.errors import IndexerError
from indexer.indexing.job import Target
from indexer.indexing.quarantine import each_part
from indexer.indexing.stored_vectors import StoredVectors, chunk_columns
from indexer.schema import Layout
from indexer.storage import tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Receipt

Sources = Mapping[tuple[str, int], tuple[int, str]]
"""For path and row of a document the epoch that has its text, and its id there."""

Lookup = Callable[[int, Sequence[str], int], pa.Table]
"""Chunks of documents, as StoredVectors.rows gives them: by epoch, ids there and width."""


def stage_from_epochs(
    target: Target, shard: Shard, sources: Sources, epochs: Mapping[int, StoredVectors], published: int
) -> Receipt:
    """Stages the rows of documents whose vectors an epoch has, with the ids and payload of tonight.

    Args:
        target: Where the rows go.
        shard: The documents, as the corpus has them now.
        sources: Where each has its vectors; by default under its own id in the published epoch.
        epochs: The epochs.
        published: The published one.

    Returns:
        The receipt that counts: another process's, if that one was put first.

    Raises:
        IndexerError: An epoch lacks a document.
    """

    def lookup(epoch: int, ids: Sequence[str], width: int) -> pa.Table:
        return epochs[epoch].rows(ids, width, target.layout)

    return _reuse(target, shard, sources, lookup, published)


def stage_from_tonight(target: Target, shard: Shard, sources: Sources, receipts: Sequence[str]) -> Receipt:
    """Stages the rows of documents whose text is embedded tonight under another id.

    Args:
        target: Where the rows go.
        shard: The documents, as the corpus has them now.
        sources: For each the epoch of tonight and the id that is embedded.
        receipts: The shards that hold these ids.

    Returns:
        The receipt that counts: another process's, if that one was put first.
    """
    control = ControlStore(target.uri, target.layout.name)
    staged = [control.receipts(target.epoch).get(shard_id).fragments for shard_id in receipts]

    def lookup(_: int, ids: Sequence[str], width: int) -> pa.Table:
        name = target.layout.table(width)
        fragments = [fragment for found in staged for fragment in found.get(name, [])]
        return tables.lookup_staged(target.uri, name, fragments, ids, chunk_columns(target.layout))

    return _reuse(target, shard, sources, lookup, target.epoch)


def staged_ids(target: Target, shard_id: str, wanted: pa.Array) -> tuple[str, pa.Array]:
    """Ids of a staged shard that are wanted, beside the shard's name."""
    receipt = ControlStore(target.uri, target.layout.name).receipts(target.epoch).get(shard_id)
    name = target.layout.table(min(target.layout.widths))
    batches = tables.read_staged(target.uri, name, receipt.fragments.get(name, []), [schema.ID])
    found = [batch.column(0).filter(pc.is_in(batch.column(0), value_set=wanted)) for batch in batches]
    return shard_id, pc.unique(pa.chunked_array(found, pa.string()))


def _reuse(target: Target, shard: Shard, sources: Sources, lookup: Lookup, epoch: int) -> Receipt:
    """Stages a shard with vectors that are looked up."""
    control = ControlStore(target.uri, target.layout.name)

    def read(part: FileRows) -> list[DocumentBatch]:
        return list(read_part(target.corpus, part))

    batches, unread = each_part(control, target.corpus, shard, read)
    found = [
        [sources.get((batch.file, int(row)), (epoch, name)) for row, name in zip(batch.rows, batch.ids, strict=True)]
        for batch in batches
    ]
    wanted = {number: sorted({name for ids in found for at, name in ids if at == number}) for number in _epochs(found)}
    fragments = {}
    if unread.num_rows:
        fragments[target.layout.quarantine] = tables.stage(target.uri, target.layout.quarantine, unread)
    chunks = 0
    for name, known in _known(target.layout, lookup, wanted) if batches else ():
        columns = target.layout.schemas()[name]
        staged = [_rows(*pair, known, columns) for pair in zip(batches, found, strict=True)]
        fragments[name] = tables.stage(target.uri, name, pa.concat_tables(staged))
        if name != target.layout.documents:
            chunks = sum(part.num_rows for part in staged)
    receipt = Receipt.without_engine(
        shard.shard_id,
        fragments,
        documents=shard.documents - unread.num_rows,
        chunks=chunks,
        unread=unread["reason"].to_pylist(),
    )
    return control.receipts(target.epoch).put(receipt)


def _known(layout: Layout, lookup: Lookup, wanted: Mapping[int, Sequence[str]]) -> Iterator[tuple[str, pa.Table]]:
    """For every table the rows that are looked up, with their epoch."""
    names = chunk_columns(layout)
    rows = pa.table({})
    for width in layout.widths:
        found = [_with_epoch(lookup(number, ids, width).select(names), number) for number, ids in wanted.items()]
        rows = pa.concat_tables(found)
        yield layout.table(width), rows
    if layout.documents is not None:
        yield layout.documents, rows.filter(pc.equal(rows[schema.CHUNK], 0))


def _epochs(found: Sequence[Sequence[tuple[int, str]]]) -> list[int]:
    """The epochs that are named."""
    return sorted({epoch for sources in found for epoch, _ in sources})


def _with_epoch(rows: pa.Table, epoch: int) -> pa.Table:
    """The rows with the epoch that has them."""
    return rows.append_column("epoch", pa.repeat(epoch, rows.num_rows))


def _rows(batch: DocumentBatch, sources: Sequence[tuple[int, str]], rows: pa.Table, target: pa.Schema) -> pa.Table:
    """The chunks of the sources, as rows of the documents of tonight."""
    keys = zip(rows["epoch"].to_pylist(), rows[schema.ID].to_pylist(), strict=True)
    pairs = np.array(list(_pairs(sources, list(keys))), np.int64).reshape(-1, 2)
    if len(set(pairs[:, 0].tolist())) != len(sources):
        raise IndexerError("the tables lack a document whose vectors were to be reused; run again")
    document, there = pa.array(pairs[:, 0]), rows.take(pa.array(pairs[:, 1]))
    columns = {name: there[name] for name in there.schema.names}
    payload = [name for name in batch.payload.schema.names if name in target.names]
    columns |= {name: batch.payload.column(name).take(document) for name in payload}
    columns |= {
        schema.ID: pa.array(batch.ids, pa.string()).take(document),
        schema.CONTENT_HASH: batch.content_hash.take(document),
        schema.PAYLOAD_HASH: batch.payload_hash.take(document),
    }
    return pa.table([columns[name] for name in target.names], schema=target)


def _pairs(sources: Sequence[tuple[int, str]], known: Sequence[tuple[int, str]]) -> Iterator[tuple[int, int]]:
    """Number of the document and of the known row, for every row of its source."""
    places: dict[tuple[int, str], list[int]] = {}
    for row, key in enumerate(known):
        places.setdefault(key, []).append(row)
    return ((document, row) for document, key in enumerate(sources) for row in places.get(key, ()))
