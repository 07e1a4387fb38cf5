"""Documents that moved: a new id for content whose vectors the published tables hold. Nothing is embedded."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.corpus.documents import DocumentBatch, read_part
from indexer.corpus.shards import FileRows, Shard
from indexer.errors import IndexerError
from indexer.indexing.job import Target
from indexer.indexing.quarantine import each_part
from indexer.storage import tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Receipt

CHUNK_COLUMNS = (schema.ID, schema.CHUNK, schema.CHAR_START, schema.CHAR_END, schema.VECTOR)


def move(target: Target, shard: Shard, old_ids: Mapping[tuple[str, int], str], versions: Mapping[str, int]) -> Receipt:
    """Stages the rows of moved documents under their new ids and with their new payload.

    Args:
        target: Where the rows go.
        shard: The documents, as the corpus has them now.
        old_ids: For path and row of each document the id that its vectors are published under.
        versions: Published version of every table.

    Returns:
        The receipt that counts: another process's, if that one was put first.

    Raises:
        IndexerError: The published tables lack a document.
    """
    control = ControlStore(target.uri, target.layout.name)

    def read(part: FileRows) -> list[DocumentBatch]:
        return list(read_part(target.corpus, part))

    batches, unread = each_part(control, target.corpus, shard, read)
    old = [[old_ids[batch.file, int(row)] for row in batch.rows] for batch in batches]
    names = sorted({found for ids in old for found in ids})
    fragments = {}
    if unread.num_rows:
        fragments[target.layout.quarantine] = tables.stage(target.uri, target.layout.quarantine, unread)
    chunks = 0
    for width in target.layout.widths if batches else ():
        table = target.layout.table(width)
        rows = tables.lookup(target.uri, table, versions[table], names, CHUNK_COLUMNS)
        moved = [_moved(*pair, rows, target.layout.schema(width)) for pair in zip(batches, old, strict=True)]
        fragments[table] = tables.stage(target.uri, table, pa.concat_tables(moved))
        chunks = sum(part.num_rows for part in moved)
    receipt = Receipt(
        shard_id=shard.shard_id,
        fragments=fragments,
        documents=shard.documents - unread.num_rows,
        chunks=chunks,
        quarantined=unread.num_rows,
        unread=unread.num_rows,
        truncated=0,
        tokens=0,
        sampled_cosine=None,
        seconds={},
    )
    return control.receipts(target.epoch).put(receipt)


def _moved(batch: DocumentBatch, old: Sequence[str], rows: pa.Table, target: pa.Schema) -> pa.Table:
    """The published chunks of the old ids, as rows of the new ids."""
    pairs = np.array(list(_pairs(old, rows[schema.ID].to_pylist())), np.int64).reshape(-1, 2)
    if len(set(pairs[:, 0].tolist())) != len(old):
        raise IndexerError("the published tables lack a document that has moved")
    document, published = pa.array(pairs[:, 0]), rows.take(pa.array(pairs[:, 1]))
    columns = {name: published[name] for name in CHUNK_COLUMNS}
    columns |= {name: batch.payload.column(name).take(document) for name in batch.payload.schema.names}
    columns |= {
        schema.ID: pa.array(batch.ids, pa.string()).take(document),
        schema.CONTENT_HASH: batch.content_hash.take(document),
        schema.PAYLOAD_HASH: batch.payload_hash.take(document),
    }
    return pa.table([columns[name] for name in target.names], schema=target)


def _pairs(old: Sequence[str], published: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Number of the document and of the published row, for every row of its old id."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(published):
        places.setdefault(name, []).append(row)
    return ((document, row) for document, name in enumerate(old) for row in places.get(name, ()))
