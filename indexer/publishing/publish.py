"""Publishes an intent: commits, indices, gates, the epoch file.

Any process may finish any intent, any number of times.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from indexer import schema
from indexer.errors import CannotFinish, IndexerError
from indexer.progress import Stopwatch
from indexer.publishing.gates import Gate, enforce, quarantine_gate, table_gates
from indexer.publishing.parallel import Each, maintain_tables
from indexer.publishing.upkeep import MaintainedTable
from indexer.settings import GateSettings
from indexer.storage import commits, tables
from indexer.storage.commits import Change
from indexer.storage.control import ControlStore
from indexer.storage.description import MaintenanceRecord
from indexer.storage.records import DocumentsState, Epoch, Intent, Receipt, TableState, decoded_columns, now
from indexer.storage.tags import protect
from indexer.storage.vector_index import TableStats

TRIES = 20
"""Cap on the rounds of commit and maintenance while others write to the tables."""

WAY_OUT = (
    "; its tables are written: run again with another bound for the gate, or give it up with jobs.publish rollback "
    "(before the first epoch: with another index.name)"
)
"""Advice when a gate refuses an intent: the run that finishes it applies its own bounds."""


def finish(
    uri: str, store: ControlStore, intent: Intent, gates: GateSettings, parallel_rows: int, each: Each, watch: Stopwatch
) -> Epoch:
    """Takes an intent to its epoch.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        intent: What the epoch will be.
        gates: Bounds.
        parallel_rows: Rows above which the work on one table is cut into tasks.
        each: Runs the maintenance of every table, whose memory grows with the table.
        watch: Adds the seconds of ``commit`` and of ``index``, which includes the gates.

    Returns:
        The epoch; another run's, if that one published this epoch or a later one in the meantime.

    Raises:
        RefusedError: A gate refuses; the published epoch stays, and the intent waits to be finished.
        CannotFinish: A staged file, its receipt or a base is gone.
        IndexerError: A table cannot be written.
    """
    for _ in range(TRIES):
        # Another run may have finished it meanwhile, or an epoch after it: what readers see already stands.
        if store.is_closed(intent.epoch):
            return store.epoch(store.epoch_numbers()[-1])
        with watch("commit"):
            staged = _receipts(store, intent)
            versions = _commit(uri, store, intent, staged)
        with watch("index"):
            added = {name: _added(staged, name) for name in _searched(intent)}
            maintained = maintain_tables(uri, store.name, intent, added, gates, parallel_rows, each)
        # What another writer put between commit and maintenance is in the measured version: commit again without it.
        if all(commits.holds(uri, table.name, table.measured.version, intent.digest) for table in maintained):
            break
    else:
        raise IndexerError(f"epoch {intent.epoch}: other processes write to its tables all the time; run again")
    version = versions[intent.quarantine_table]
    rows = tables.read_all(uri, intent.quarantine_table, version, schema.QUARANTINE_SCHEMA)
    found = [*table_gates(intent, maintained, gates), quarantine_gate(_staged_quarantine(uri, intent, staged), rows)]
    # Gates come before anything that readers see: what is refused leaves the published epoch as it is.
    enforce(found, WAY_OUT)
    epoch = _epoch(intent, maintained, version, found)
    store.put_quarantine(epoch.number, version, rows)
    reasons = Counter(rows["reason"].to_pylist())
    described = epoch.description.model_copy(update={"quarantine_reasons": dict(sorted(reasons.items()))})
    # The epoch file comes last: whoever finds it finds its quarantine, and versions that no clean-up removes.
    protect(uri, epoch.versions(), epoch.number)
    return store.put_epoch(epoch.model_copy(update={"description": described}))


def _searched(intent: Intent) -> list[str]:
    """Names of all tables but the quarantine."""
    return [*intent.widths, *([intent.documents_table] if intent.documents_table is not None else [])]


def _receipts(store: ControlStore, intent: Intent) -> list[Receipt]:
    """Receipts of the staged shards."""
    receipts = store.receipts(intent.epoch)
    gone = set(intent.receipts) - receipts.ids()
    if gone:
        raise CannotFinish(f"epoch {intent.epoch}: {len(gone)} receipts of staged shards are missing")
    return [receipts.get(shard_id) for shard_id in intent.receipts]


def _added(staged: Sequence[Receipt], name: str) -> list[dict[str, Any]]:
    """Staged fragments of a table."""
    return [part for receipt in staged for part in receipt.fragments.get(name, [])]


def _staged_quarantine(uri: str, intent: Intent, staged: Sequence[Receipt]) -> pa.Table:
    """Quarantined rows as they were staged."""
    name = intent.quarantine_table
    batches = tables.read_staged(uri, name, _added(staged, name) + intent.quarantine, schema.QUARANTINE_SCHEMA.names)
    return pa.Table.from_batches(batches, schema.QUARANTINE_SCHEMA)


def _commit(uri: str, store: ControlStore, intent: Intent, staged: Sequence[Receipt]) -> dict[str, int]:
    """Commits every table; returns the versions that the commits made."""
    dropped = store.removals(intent.removals)
    versions = {}
    for name, base in intent.bases.items():
        is_quarantine = name == intent.quarantine_table
        change = Change(
            epoch=intent.epoch,
            intent=intent.digest,
            base=base,
            added=_added(staged, name) + (intent.quarantine if is_quarantine else []),
            dropped=None if is_quarantine else dropped,
            metadata=intent.metadata | ({"width": str(intent.widths[name])} if name in intent.widths else {}),
            owner=store.name,
            columns=decoded_columns(intent.columns[name]) if name in intent.columns else None,
        )
        versions[name] = commits.commit(uri, name, change)
    return versions


def _of_widths(intent: Intent, maintained: Sequence[MaintainedTable]) -> list[MaintainedTable]:
    """The width tables."""
    return [table for table in maintained if table.name in intent.widths]


def _documents(intent: Intent, maintained: Sequence[MaintainedTable]) -> DocumentsState:
    """Record of the table of documents."""
    (found,) = (table for table in maintained if table.name == intent.documents_table)
    measured = found.measured
    return DocumentsState(
        name=found.name,
        version=measured.version,
        rows=measured.rows,
        bytes=measured.bytes,
        sums=found.identity.sums,
        **_searchable(measured),
    )


def _searchable(measured: TableStats) -> dict[str, Any]:
    """Entries for full-text and filter indices, of tables that have some."""
    if not (measured.text or measured.filters):
        return {}
    return {
        "text": list(measured.text),
        "filters": dict(measured.filters),
        "search_bytes": measured.search_bytes,
    }


def _epoch(intent: Intent, maintained: Sequence[MaintainedTable], quarantine: int, found: Sequence[Gate]) -> Epoch:
    """Builds the epoch's record from the intent and the maintained tables."""
    states = [
        TableState(
            name=table.name,
            width=intent.widths[table.name],
            version=table.measured.version,
            rows=table.measured.rows,
            bytes=table.measured.bytes,
            index=table.measured.index,
            probes=table.recall.probes if table.recall else None,
            recall=table.recall,
            trained_rows=table.maintenance.trained_rows,
            sums=table.identity.sums,
            **_searchable(table.measured),
        )
        for table in sorted(_of_widths(intent, maintained), key=lambda table: -intent.widths[table.name])
    ]
    return Epoch(
        number=intent.epoch,
        generation=intent.generation,
        published=now(),
        tables=states,
        quarantine=(intent.quarantine_table, quarantine),
        intent=intent.digest,
        **({} if intent.documents_table is None else {"documents": _documents(intent, maintained)}),
        description=intent.description.model_copy(
            update={
                "gates": intent.description.gates | {gate.name: gate.measured for gate in found},
                "bounds": intent.description.bounds | {gate.name: gate.allowed for gate in found},
                "maintenance": {table.name: MaintenanceRecord(**asdict(table.maintenance)) for table in maintained},
            }
        ),
    )
