"""Reads every key of the published tables and checks what an epoch says of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from indexer.publishing import identity
from indexer.publishing.identity import Identity
from indexer.storage import tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch, TableState


def verify(uri: str, store: ControlStore, epoch: Epoch) -> dict[str, Any]:
    """Checks an epoch's tables in full: keys, documents, contents, quarantine.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        epoch: The epoch.

    Returns:
        JSON-ready: ``epoch``; ``rows`` and ``documents`` by table; ``wrong``, what does not hold, and ``unchecked``,
        what cannot be told, both in words.

    Raises:
        IndexerError: A table or a control file is gone or cannot be read.
    """
    found = {table.name: identity.of_table(uri, table.name, table.version) for table in epoch.searched}
    return {
        "epoch": epoch.number,
        "rows": {name: held.rows for name, held in found.items()},
        "documents": {name: held.documents for name, held in found.items()},
        "wrong": [*_wrong_tables(epoch, found), *_wrong_quarantine(uri, store, epoch)],
        "unchecked": list(_unchecked(epoch)),
    }


def _wrong_tables(epoch: Epoch, found: Mapping[str, Identity]) -> Iterator[str]:
    """What does not hold of the tables, the quarantine apart."""
    first, documents = found[epoch.tables[0].name], epoch.description.documents
    for table in epoch.searched:
        held = found[table.name]
        if held.keys != held.rows:
            yield f"{table.name} has {held.rows - held.keys:,} rows with the key of another row"
        if held.documents != documents:
            yield f"{table.name} has {held.documents:,} documents, the epoch {documents:,}"
        if held != (first if isinstance(table, TableState) else first.of_documents):
            yield f"{table.name} has other keys or contents than {epoch.tables[0].name}"
        # Hashes of another version cannot be compared.
        if table.sums is not None and table.sums.hashing == identity.HASHING and table.sums != held.sums:
            yield f"{table.name} is not what its epoch recorded"


def _unchecked(epoch: Epoch) -> Iterator[str]:
    """Tables whose content cannot be compared with what the epoch recorded."""
    for table in epoch.searched:
        if table.sums is None:
            yield f"{table.name}: the epoch recorded no sums, as versions before them did"
        elif table.sums.hashing != identity.HASHING:
            yield (
                f"{table.name}: the epoch recorded sums of {table.sums.hashing}, which this {identity.HASHING} cannot "
                "make; the next epoch records new ones"
            )


def _wrong_quarantine(uri: str, store: ControlStore, epoch: Epoch) -> Iterator[str]:
    """What does not hold of the quarantine."""
    name, version = epoch.quarantine
    there, recorded = tables.count_rows(uri, name, version), store.quarantine(epoch).num_rows
    if there != recorded:
        yield f"{name} has {there:,} rows, the epoch's file {recorded:,}"
