"""Copies the published rows that stay into tables that are written anew: other widths, precision or columns.

A column that the source lacks comes from the published table of documents, by the document's id.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.indexing.job import Job, Target
from indexer.indexing.stored_vectors import at_width, source_table
from indexer.storage import pieces, tables
from indexer.storage.control import ControlStore
from indexer.storage.documents_table import DocumentsTable
from indexer.storage.pieces import TablePiece
from indexer.storage.records import DocumentsState, Epoch, Receipt, TableState, canonical

PIECE_BYTES = 1 << 27
"""Bytes of float32 vectors that one task copies."""

PIECE_DOCUMENTS = 1 << 15
"""Rows that one task copies into or from the table of documents, whose texts may be long."""


@dataclass(frozen=True)
class CopiedPiece:
    """Rows of a published table that go into a table with other columns or vectors.

    Attributes:
        shard_id: Digest of everything that makes the result.
        piece: The rows.
        table: The table that they go into.
        documents: Name and version of the published table of documents; ``None`` without.
        removals: Files with the ids whose rows stay behind.
        payload_differs: Whether the payload's columns change: these documents' files cannot be read for it now.
    """

    shard_id: str
    piece: TablePiece
    table: str
    documents: tuple[str, int] | None
    removals: tuple[str, ...]
    payload_differs: bool


def copied_pieces(job: Job, stays: int, removals: Sequence[str]) -> Iterator[CopiedPiece]:
    """Cuts the published rows that remade tables need.

    Args:
        job: The run's inputs.
        stays: Published documents whose rows stay.
        removals: Files with the ids of the others.
    """
    if job.published is None or not stays:
        return
    layout, there = job.layout, job.published.documents
    salt = [layout.describe(), [str(field.type) for field in layout.payload], job.epoch, sorted(removals)]
    documents = None if there is None else (there.name, there.version)
    widths = {layout.table(width): width for width in layout.widths}
    for name in sorted(job.change.remade, reverse=True):
        width = widths.get(name)
        source, rows = _source(job.published, width)
        for piece in pieces.cut(job.settings.index.uri, source.name, source.version, rows):
            named = canonical([*salt, width, piece.name, piece.version, piece.fragment, piece.start, piece.rows])
            shard_id = hashlib.blake2b(named.encode(), digest_size=16).hexdigest()
            yield CopiedPiece(shard_id, piece, name, documents, tuple(removals), job.change.payload)


def _source(published: Epoch, width: int | None) -> tuple[TableState | DocumentsState, int]:
    """The table that a width's rows, or without one the documents' rows, are copied from, and rows of a piece."""
    if width is None:
        return published.payload_table, PIECE_DOCUMENTS
    source = source_table(published, width)
    rows = max(1, PIECE_BYTES // _vector_bytes(published, source))
    return source, rows if published.documents is None else min(rows, PIECE_DOCUMENTS)


def _vector_bytes(published: Epoch, source: TableState) -> int:
    """Bytes of a row's vectors in float32; of token vectors at most, on average, by the table's bytes."""
    if not published.description.layout.per_token:
        return 4 * source.width
    stored = 2 if published.description.layout.precision == "float16" else 4
    return max(4 * source.width, source.bytes * 4 // stored // max(1, source.rows))


def copy(target: Target, work: CopiedPiece) -> Receipt:
    """Stages a piece; its documents are counted as unchanged ones.

    Returns:
        The receipt that counts: another process's, if that one was put first.
    """
    control = ControlStore(target.uri, target.layout.name)
    wanted = target.layout.schemas()[work.table]
    stored = tables.table_schema(target.uri, work.piece.name, work.piece.version)
    columns = [column for column in wanted.names if column in stored.names]
    documents = None if work.documents is None else DocumentsTable(target.uri, *work.documents)
    staged = [wanted.empty_table()]
    stays = _stays(target.uri, work, control)
    for batch in pieces.read(target.uri, work.piece, columns):
        rows = pa.Table.from_batches([batch]).filter(stays.slice(0, batch.num_rows))
        stays = stays.slice(batch.num_rows)
        if schema.VECTOR not in wanted.names:
            rows = rows.filter(pc.equal(rows[schema.CHUNK], 0))
        if work.payload_differs:
            # Values that cannot be converted are null: no payload has this hash, so they are read when they can be.
            unknown = pa.scalar(bytes(schema.PAYLOAD_HASH_TYPE.byte_width), schema.PAYLOAD_HASH_TYPE)
            at = rows.schema.get_field_index(schema.PAYLOAD_HASH)
            rows = rows.set_column(at, schema.PAYLOAD_HASH, pa.repeat(unknown, rows.num_rows))
        if documents is not None:
            rows = documents.joined(rows, wanted.names)
        staged.append(_rows(rows, target.layout.precision, wanted))
    whole = pa.concat_tables(staged)
    fragments = {work.table: tables.stage(target.uri, work.table, whole)} if whole.num_rows else {}
    return control.receipts(target.epoch).put(Receipt.without_engine(work.shard_id, fragments))


def _stays(uri: str, work: CopiedPiece, control: ControlStore) -> pa.Array:
    """Whether each row of a piece stays. Of the dropped ids, those of one file are held at once."""
    ids = pa.chunked_array([batch.column(0) for batch in pieces.read(uri, work.piece, [schema.ID])], pa.string())
    gone = np.zeros(len(ids), bool)
    for name in work.removals:
        gone |= pc.is_in(ids, value_set=control.removals([name])).to_numpy()
    return pa.array(~gone)


def _rows(rows: pa.Table, precision: str, wanted: pa.Schema) -> pa.Table:
    """Rows with the columns of another table."""
    columns = {name: rows[name] for name in rows.schema.names}
    if schema.VECTOR in wanted.names:
        vectors = wanted.field(schema.VECTOR).type
        width = (vectors.value_type if tables.is_multivector(vectors) else vectors).list_size
        columns[schema.VECTOR] = at_width(rows[schema.VECTOR], width, precision)
    return pa.table([_cast(columns.get(field.name), field, rows.num_rows) for field in wanted], wanted)


def _cast(column: pa.Array | pa.ChunkedArray | None, field: pa.Field, rows: int) -> pa.Array | pa.ChunkedArray:
    """A column in another type; nulls if there is none, or if its values have none there."""
    try:
        return pa.nulls(rows, field.type) if column is None else column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(rows, field.type)
