"""Reads what the published epoch holds of a range of ids: its documents' hashes and its quarantine."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.indexing import diff
from indexer.storage import tables
from indexer.storage.records import Epoch


def published_keys(uri: str, published: Epoch | None, low: str | None, high: str | None) -> pa.Table:
    """Ids and hashes of the published documents in a range, from the narrowest table, chunk 0 only."""
    columns = [*diff.PUBLISHED_COLUMNS, schema.CHUNK]
    if published is None:
        return pa.schema([*schema.KEY_FIELDS, *schema.HASH_FIELDS]).empty_table().select(columns)
    narrow = published.tables[-1]
    batches = tables.read(uri, narrow.name, narrow.version, columns, low, high)
    kept = [pa.Table.from_batches([batch]).filter(pc.field(schema.CHUNK) == 0) for batch in batches]
    return pa.concat_tables(kept) if kept else published_keys(uri, None, low, high)


def published_quarantine(
    uri: str, published: Epoch | None, columns: Sequence[str] = diff.QUARANTINE_COLUMNS
) -> pa.Table:
    """Columns of the published quarantine, by default ids, reasons and hashes."""
    chosen = pa.schema([schema.QUARANTINE_SCHEMA.field(column) for column in columns])
    if published is None:
        return chosen.empty_table()
    return pa.Table.from_batches(tables.read(uri, *published.quarantine, columns), chosen)


def cut(table: pa.Table, low: str | None, high: str | None) -> pa.Table:
    """Rows of the range of ids; the first range holds the null ids. Cutting early keeps the memory of a range small."""
    if low is not None:
        table = table.filter(pc.field(schema.ID) >= low)
    if high is not None:
        table = table.filter((pc.field(schema.ID) < high) | pc.field(schema.ID).is_null())
    return table
