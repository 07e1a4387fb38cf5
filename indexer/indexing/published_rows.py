"""Reads what the published epoch holds of a range of ids: its documents' hashes and its quarantine."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.indexing import diff
from indexer.storage import lookups, tables
from indexer.storage.records import Epoch

LOOKED_UP = 20_000
"""Ids that are looked up in the published table in any case, and at once."""

LOOKED_UP_SHARE = 64
"""More ids are looked up if they are at most one row in so many; reading the table is quicker for more."""

PORTION_ROWS = 1 << 18
"""Rows of the published table that are held at once while some ids are chosen."""


def published_keys(uri: str, published: Epoch | None, low: str | None, high: str | None) -> pa.Table:
    """Ids and hashes of the published documents in a range, from the narrowest table, chunk 0 only."""
    columns = [*diff.PUBLISHED_COLUMNS, schema.CHUNK]
    if published is None:
        return pa.schema([*schema.KEY_FIELDS, *schema.HASH_FIELDS]).empty_table().select(columns)
    narrow = published.tables[-1]
    batches = tables.read(uri, narrow.name, narrow.version, columns, low, high)
    kept = [_first(pa.Table.from_batches([batch])) for batch in batches]
    return pa.concat_tables(kept) if kept else published_keys(uri, None, low, high)


def keys_of(uri: str, published: Epoch, ids: pa.Array, low: str | None, high: str | None) -> pa.Table:
    """As :func:`published_keys`, of some ids in the range. What is held follows the ids and not the table.

    Args:
        uri: LanceDB database.
        published: The published epoch.
        ids: The ids, without nulls.
        low: Least id of the range, ``None`` for no bound.
        high: Id above the last one of the range, ``None`` for no bound.
    """
    narrow = published.tables[-1]
    columns = [*diff.PUBLISHED_COLUMNS, schema.CHUNK]
    if len(ids) <= max(LOOKED_UP, narrow.rows // LOOKED_UP_SHARE):
        some = (ids.slice(start, LOOKED_UP).to_pylist() for start in range(0, len(ids), LOOKED_UP))
        found = [lookups.lookup(uri, narrow.name, narrow.version, wanted, columns) for wanted in some]
    else:
        portions = _portions(tables.read(uri, narrow.name, narrow.version, columns, low, high))
        found = [rows.filter(pc.is_in(rows[schema.ID], value_set=ids)) for rows in portions]
    return pa.concat_tables(map(_first, found)) if found else published_keys(uri, None, low, high)


def _first(rows: pa.Table) -> pa.Table:
    """The rows with chunk 0."""
    return rows.filter(pc.field(schema.CHUNK) == 0)


def _portions(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The batches as tables of some rows: each filter by ids costs as much as the ids."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(len(part) for part in held) >= PORTION_ROWS:
            yield pa.Table.from_batches(held)
            held.clear()
    if held:
        yield pa.Table.from_batches(held)


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
