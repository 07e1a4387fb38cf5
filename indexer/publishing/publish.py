"""From staged shards to an epoch: gates, commits, indices, the epoch file.

Any process may finish any intent, any number of times.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from indexer import schema
from indexer.progress import Stopwatch
from indexer.publishing.gates import Gate, enforce, table_gates
from indexer.publishing.upkeep import MaintainedTable, maintain_table
from indexer.settings import GateSettings
from indexer.storage import tables, vector_index
from indexer.storage.control import ControlStore
from indexer.storage.description import MaintenanceRecord
from indexer.storage.records import Epoch, Intent, TableState, now
from indexer.storage.tables import Change

Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""Runs a function on every tuple of arguments, here or elsewhere, and gives the results in any order."""

WAY_OUT = (
    "; its tables are written: run again with another bound for the gate, or give it up with jobs.publish rollback "
    "(before the first epoch: with another index.name)"
)
"""The way out when a gate refuses an intent: the run that finishes it applies its own bounds."""


def finish(uri: str, store: ControlStore, intent: Intent, gates: GateSettings, each: Each, watch: Stopwatch) -> Epoch:
    """Takes an intent to its epoch.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        intent: What the epoch will be.
        gates: Bounds.
        each: Runs what takes memory with the size of a table, for every table.
        watch: Takes the seconds of ``commit`` and ``index``, which has the gates too.

    Returns:
        The epoch.

    Raises:
        RefusedError: A gate refuses; the published epoch stays, and the intent waits to be finished.
        IndexerError: A staged file is missing or a table cannot be written.
    """
    with watch("commit"):
        _commit(uri, store, intent)
    with watch("index"):
        maintained = list(
            each(maintain_table, ((uri, name, width, intent, gates) for name, width in intent.widths.items()))
        )
    found = table_gates(intent, maintained, gates)
    enforce(found, WAY_OUT)
    epoch = _epoch(uri, intent, maintained, found)
    name, version = epoch.quarantine
    batches = tables.read(uri, name, version, schema.QUARANTINE_SCHEMA.names)
    rows = pa.Table.from_batches(batches, schema.QUARANTINE_SCHEMA)
    store.put_quarantine(epoch.number, version, rows)
    reasons = dict(sorted(Counter(rows["reason"].to_pylist()).items()))
    described = epoch.description.model_copy(update={"quarantine_reasons": reasons})
    return store.put_epoch(epoch.model_copy(update={"description": described}))


def _commit(uri: str, store: ControlStore, intent: Intent) -> None:
    receipts = [store.receipts(intent.epoch).get(shard_id) for shard_id in intent.receipts]
    added = {name: [part for receipt in receipts for part in receipt.fragments.get(name, [])] for name in intent.bases}
    dropped = store.removals(intent.removals)
    for name, base in intent.bases.items():
        is_quarantine = name == intent.quarantine_table
        content = added[name] + (intent.quarantine if is_quarantine else [])
        metadata = intent.metadata | ({} if is_quarantine else {"width": str(intent.widths[name])})
        tables.commit(uri, name, Change(intent.epoch, base, content, None if is_quarantine else dropped, metadata))


def _epoch(uri: str, intent: Intent, maintained: Sequence[MaintainedTable], found: Sequence[Gate]) -> Epoch:
    states = [
        TableState(
            name=table.name,
            width=intent.widths[table.name],
            version=table.measured.version,
            rows=table.measured.rows,
            bytes=table.measured.bytes,
            index=table.measured.index,
            probes=table.recall.probes if table.recall else None,
            trained_rows=table.maintenance.trained_rows,
        )
        for table in sorted(maintained, key=lambda table: -intent.widths[table.name])
    ]
    return Epoch(
        number=intent.epoch,
        generation=intent.generation,
        published=now(),
        tables=states,
        quarantine=(intent.quarantine_table, vector_index.measure(uri, intent.quarantine_table).version),
        description=intent.description.model_copy(
            update={
                "gates": intent.description.gates | {gate.name: gate.measured for gate in found},
                "maintenance": {table.name: MaintenanceRecord(**asdict(table.maintenance)) for table in maintained},
            }
        ),
    )
