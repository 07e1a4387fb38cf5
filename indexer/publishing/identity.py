"""What a table holds, condensed to a few numbers: read in full, or updated by what a commit dropped and added."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import polars as pl
import pyarrow as pa

from indexer import schema
from indexer.errors import IndexerError
from indexer.storage import lookups, tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Intent, Sums

COLUMNS = (schema.ID, schema.CHUNK, schema.CONTENT_HASH, schema.PAYLOAD_HASH)

HASHING = f"polars {pl.__version__}"
"""What the rows' hashes are made with: those of another version cannot be added to them."""

KEYS_AT_ONCE = 1 << 20
"""Keys whose hashes are held at once; those of a larger table, 8 bytes a row, lie in temporary files."""

MOST_FILES = 256
"""Most of these files, all of which are open at once: as many as 8 bits can number."""

IN_MEMORY_BYTES = 1 << 20
"""Bytes from which such a file is on the disk."""

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
    def of_documents(self) -> "Identity":
        """What the table of documents must be: the rows with chunk 0 alone, each once."""
        return Identity(self.documents, self.documents, self.documents, self.first, self.first)

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
    """Reads keys and hashes of all rows once."""
    parts = min(MOST_FILES, tables.count_rows(uri, name, version) // KEYS_AT_ONCE + 1)
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)) for _ in range(parts)]
        found = _summed(_noting_keys(tables.read(uri, name, version, COLUMNS), files))
        keys = sum(map(_different, files))
    return Identity(found.rows, keys, found.documents, found.digest, found.first)


def _noting_keys(batches: Iterable[pa.RecordBatch], files: Sequence[IO[bytes]]) -> Iterator[pa.RecordBatch]:
    """The batches; the hash of every key goes into the file of its share."""
    for batch in batches:
        hashes = pl.DataFrame(pl.from_arrow(batch)).select(COLUMNS[:2]).hash_rows(seed=0).to_numpy()
        # One sort by shares of 8 bits, instead of a pass over the batch for every file.
        shares = (hashes % len(files)).astype(np.uint8)
        ends = np.cumsum(np.bincount(shares, minlength=len(files)))
        for file, part in zip(files, np.split(hashes[np.argsort(shares, kind="stable")], ends[:-1]), strict=True):
            file.write(part.tobytes())
        yield batch


def _different(file: IO[bytes]) -> int:
    """How many different hashes a file has."""
    file.seek(0)
    return int(np.unique(np.frombuffer(file.read(), np.uint64)).size)


def of_commit(
    uri: str, store: ControlStore, intent: Intent, added: Sequence[dict[str, Any]], name: str, version: int
) -> Identity:
    """Identity of a committed table: of its base, less what the intent dropped, and what it added.

    All of it is looked at in the committed table too. If that has anything else under these ids, or another number of
    rows, it is read in full.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        intent: The intent that was committed.
        added: The fragments that it added to the table.
        name: One of its tables.
        version: The committed version, or one that maintenance made of it.
    """
    return _updated(uri, store, intent, added, name, version) or of_table(uri, name, version)


def _updated(
    uri: str, store: ControlStore, intent: Intent, added: Sequence[dict[str, Any]], name: str, version: int
) -> Identity | None:
    """The identity by what changed; ``None`` if that does not tell it."""
    base = intent.sums.get(name)
    if base is None or base.hashing != HASHING:
        return None
    removals = store.removals(intent.removals)
    if sum(part["physical_rows"] for part in added) + len(removals) > min(MOST, base.rows // FEW):
        return None
    dropped = removals.to_pylist()
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
    yield from lookups.lookup(uri, name, version, ids, COLUMNS).to_batches()


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
