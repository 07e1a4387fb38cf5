"""What a table holds, condensed to a few numbers: read in full, or updated by what a commit dropped and added."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from indexer import schema
from indexer.errors import IndexerError
from indexer.storage import tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Intent, Sums

COLUMNS = (schema.ID, schema.CHUNK, schema.CONTENT_HASH, schema.PAYLOAD_HASH)

HASHING = f"polars {pl.__version__}"
"""What the rows' hashes are made with: those of another version cannot be added to them."""

KEYS_AT_ONCE = 1 << 25
"""Keys whose hashes are held at once. Of a larger table, keys are read several times."""

FEW = 64
"""Sums are kept up to date by changes of at most one row in so many; reading all rows is quicker for larger ones."""

MOST = 1 << 20
"""Most rows of such a change: their keys and hashes are held at once."""

MASK = 2**64 - 1


@dataclass(frozen=True)
class Identity:
    """A table's rows without their vectors: equal for equal sets in any order.

    Attributes:
        rows: Rows.
        keys: Different keys.
        documents: Rows with chunk 0.
        digest: Sum of the rows' hashes.
        first: Sum of the hashes of the rows with chunk 0.
    """

    rows: int
    keys: int
    documents: int
    digest: int
    first: int

    @property
    def sums(self) -> Sums:
        """As an epoch records it."""
        return Sums(
            rows=self.rows,
            documents=self.documents,
            digest=f"{self.digest:016x}",
            first=f"{self.first:016x}",
            hashing=HASHING,
        )


def of_table(uri: str, name: str, version: int) -> Identity:
    """Reads keys and hashes of all rows."""
    found = _summed(tables.read(uri, name, version, COLUMNS))
    passes = -(-found.rows // KEYS_AT_ONCE)
    keys = sum(_different_keys(uri, name, version, at, passes) for at in range(passes))
    return Identity(found.rows, keys, found.documents, found.digest, found.first)


def of_commit(uri: str, store: ControlStore, intent: Intent, name: str, version: int) -> Identity:
    """Identity of a committed table: of its base, less what the intent dropped, and what it added.

    All of it is looked at in the committed table too. If that has anything else under these ids, or another number of
    rows, it is read in full.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        intent: The intent that was committed.
        name: One of its tables.
        version: The committed version, or one that maintenance made of it.
    """
    return _updated(uri, store, intent, name, version) or of_table(uri, name, version)


def _updated(uri: str, store: ControlStore, intent: Intent, name: str, version: int) -> Identity | None:
    """The identity by what changed; ``None`` if that does not tell it."""
    base = intent.sums.get(name)
    if base is None or base.hashing != HASHING:
        return None
    receipts = store.receipts(intent.epoch)
    added = [part for shard_id in intent.receipts for part in receipts.get(shard_id).fragments.get(name, [])]
    dropped = store.removals(intent.removals).to_pylist()
    if sum(part["physical_rows"] for part in added) + len(dropped) > min(MOST, base.rows // FEW):
        return None
    come = pa.Table.from_batches(tables.read_staged(uri, name, added, COLUMNS), _SCHEMA)
    try:
        gone = _summed(_looked_up(uri, name, intent.bases[name], dropped))
    except IndexerError:
        return None  # somebody cleaned up the base
    new = _summed(come.to_batches())
    rows = base.rows - gone.rows + new.rows
    changed = sorted({*dropped, *come[schema.ID].to_pylist()})
    is_as_told = (
        tables.count_rows(uri, name, version) == rows
        and _summed(_looked_up(uri, name, version, changed)) == new
        and pl.DataFrame(pl.from_arrow(come)).n_unique(COLUMNS[:2]) == come.num_rows
    )
    if not is_as_told:
        return None
    return Identity(
        rows=rows,
        keys=rows,
        documents=base.documents - gone.documents + new.documents,
        digest=(int(base.digest, 16) - gone.digest + new.digest) & MASK,
        first=(int(base.first, 16) - gone.first + new.first) & MASK,
    )


def _looked_up(uri: str, name: str, version: int, ids: list[str]) -> Iterator[pa.RecordBatch]:
    """Keys and hashes of some documents."""
    yield from tables.lookup(uri, name, version, ids, COLUMNS).to_batches()


def _different_keys(uri: str, name: str, version: int, at: int, passes: int) -> int:
    """Different keys of a table among those whose hashes fall to one of several passes."""
    hashes = [np.empty(0, np.uint64)]
    for batch in tables.read(uri, name, version, COLUMNS[:2]):
        found = pl.DataFrame(pl.from_arrow(batch)).hash_rows(seed=0).to_numpy()
        hashes.append(found[found % passes == at])
    return int(np.unique(np.concatenate(hashes)).size)


@dataclass(frozen=True)
class _Sums:
    """Sums over some rows, as in :class:`Identity`."""

    rows: int
    documents: int
    digest: int
    first: int


def _summed(batches: Iterable[pa.RecordBatch]) -> _Sums:
    """Sums over batches of keys and hashes."""
    rows = documents = digest = first = 0
    for batch in batches:
        frame = pl.DataFrame(pl.from_arrow(batch)).select(COLUMNS)
        hashes, is_first = frame.hash_rows(seed=0).to_numpy(), (frame[schema.CHUNK] == 0).to_numpy()
        rows += frame.height
        documents += int(is_first.sum())
        digest += int(np.add.reduce(hashes, dtype=np.uint64))
        first += int(np.add.reduce(hashes[is_first], dtype=np.uint64))
    return _Sums(rows, documents, digest & MASK, first & MASK)


_SCHEMA = pa.schema([field for field in (*schema.KEY_FIELDS, *schema.HASH_FIELDS) if field.name in COLUMNS])
