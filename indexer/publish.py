"""From staged shards to an epoch: gates, commits, indices, the epoch file.

Any process may finish any intent, any number of times.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema, tables
from indexer.epochs import ControlStore, Epoch, Intent, TableState, now
from indexer.errors import RefusedError
from indexer.pipeline import Stopwatch
from indexer.settings import GateSettings
from indexer.tables import Change, Maintenance, Measured, Recall

Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""Runs a function on every tuple of arguments, here or elsewhere, and gives the results in any order."""

WAY_OUT = (
    "; its tables are written: run again with another bound for the gate, or give it up with jobs.publish rollback "
    "(before the first epoch: with another index.name)"
)
"""What can be done about an intent that a gate refuses: the bounds are those of the run that finishes it."""

SHARDS_READ_BACK = 200
"""Staged shards whose vectors are read back before an epoch is committed."""


@dataclass(frozen=True)
class Gate:
    """One condition on an epoch.

    Attributes:
        name: Its name in the summary.
        measured: What was found.
        allowed: The bound.
        holds: Whether the epoch may be published.
    """

    name: str
    measured: float
    allowed: float
    holds: bool


def check_files(unread: int, files: int, gates: GateSettings) -> None:
    """Refuses a run that would leave out too many files: each is one row of the quarantine, whatever it holds.

    Raises:
        RefusedError: The share is above the bound of quarantined documents.
    """
    share = unread / files
    _enforce([Gate("gates.max_quarantined (files)", share, gates.max_quarantined, share <= gates.max_quarantined)])


def check_counts(counts: Mapping[str, int], published: int, gates: GateSettings, most: int | None = None) -> list[Gate]:
    """Refuses a run that would remove or quarantine too much, before anything is committed.

    Args:
        counts: Counts of the comparison: ``documents``, ``deleted``, ``quarantined``.
        published: Documents of the published epoch.
        gates: Bounds.
        most: Likewise of quarantined rows, ``run.max_quarantine``.

    Returns:
        The gates, all of which hold.

    Raises:
        RefusedError: A number is above its bound.
    """
    removed = counts["deleted"] / max(published, 1)
    quarantined = counts["quarantined"] / max(counts["documents"], 1)
    found = [
        Gate("gates.max_removed", removed, gates.max_removed, removed <= gates.max_removed),
        Gate("gates.max_quarantined", quarantined, gates.max_quarantined, quarantined <= gates.max_quarantined),
    ]
    if most is not None:
        found.append(Gate("run.max_quarantine", counts["quarantined"], most, counts["quarantined"] <= most))
    _enforce(found)
    return found


def check_vectors(
    uri: str, store: ControlStore, epoch: int, receipts: Sequence[str], names: Sequence[str], gates: GateSettings
) -> list[Gate]:
    """Refuses staged vectors that are not unit vectors or not the model's, before anything is committed.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        epoch: Epoch the shards are staged for.
        receipts: Its shards; of many, as many as :data:`SHARDS_READ_BACK` drawn at random.
        names: The width tables.
        gates: Bounds.

    Returns:
        The gates, all of which hold.

    Raises:
        RefusedError: A vector is not finite, its norm is not 1, or embedding its text again gives another.
    """
    sampled = [store.receipt(epoch, shard_id).sampled_cosine for shard_id in receipts]
    least = min((cosine for cosine in sampled if cosine is not None), default=1.0)
    drawn = random.Random(epoch).sample(receipts, min(len(receipts), SHARDS_READ_BACK))  # noqa: S311  # a sample
    fragments = [store.receipt(epoch, shard_id).fragments for shard_id in drawn]
    worst = max((_norm_error(uri, name, part.get(name, [])) for part in fragments for name in names), default=0.0)
    found = [
        Gate("gates.norm_tolerance", worst, gates.norm_tolerance, worst <= gates.norm_tolerance),
        Gate("gates.sampled_cosine", least, gates.sampled_cosine, least >= gates.sampled_cosine),
    ]
    _enforce(found)
    return found


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
        tended = list(each(_tend, ((uri, name, width, intent, gates) for name, width in intent.widths.items())))
    found = _gates(intent, tended, gates)
    _enforce(found, WAY_OUT)
    epoch = _epoch(uri, intent, tended, found)
    name, version = epoch.quarantine
    batches = tables.read(uri, name, version, schema.QUARANTINE_SCHEMA.names)
    rows = pa.Table.from_batches(batches, schema.QUARANTINE_SCHEMA)
    store.put_quarantine(epoch.number, version, rows)
    epoch.description["quarantine_reasons"] = dict(sorted(Counter(rows["reason"].to_pylist()).items()))
    return store.put_epoch(epoch)


def _commit(uri: str, store: ControlStore, intent: Intent) -> None:
    receipts = [store.receipt(intent.epoch, shard_id) for shard_id in intent.receipts]
    added = {name: [part for receipt in receipts for part in receipt.fragments.get(name, [])] for name in intent.bases}
    dropped = store.removals(intent.removals)
    for name, base in intent.bases.items():
        is_quarantine = name == intent.quarantine_table
        content = added[name] + (intent.quarantine if is_quarantine else [])
        metadata = intent.metadata | ({} if is_quarantine else {"width": str(intent.widths[name])})
        tables.commit(uri, name, Change(intent.epoch, base, content, None if is_quarantine else dropped, metadata))


@dataclass(frozen=True)
class _Tended:
    """A committed table after its maintenance."""

    name: str
    measured: Measured
    identity: "_Identity"
    recall: Recall | None
    maintenance: Maintenance


def _tend(uri: str, name: str, width: int, intent: Intent, gates: GateSettings) -> _Tended:
    metric = intent.metadata["metric"]
    kind = tables.vector_index(intent.vector_index, tables.measure(uri, name).rows, width)
    maintenance = tables.maintain(uri, name, kind, metric, intent.trained_rows.get(name))
    measured = tables.measure(uri, name)
    recall = None
    if measured.index != tables.NO_INDEX:
        recall = tables.recall(uri, name, measured.version, metric, gates.recall_queries, gates.recall)
    return _Tended(name, measured, _identity(uri, name, measured.version), recall, maintenance)


def _epoch(uri: str, intent: Intent, tended: Sequence[_Tended], found: Sequence[Gate]) -> Epoch:
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
        for table in sorted(tended, key=lambda table: -intent.widths[table.name])
    ]
    return Epoch(
        number=intent.epoch,
        generation=intent.generation,
        published=now(),
        tables=states,
        quarantine=(intent.quarantine_table, tables.measure(uri, intent.quarantine_table).version),
        description={
            **intent.description,
            "gates": intent.description["gates"] | {gate.name: gate.measured for gate in found},
            "maintenance": {table.name: asdict(table.maintenance) for table in tended},
        },
    )


def _gates(intent: Intent, tended: Sequence[_Tended], gates: GateSettings) -> list[Gate]:
    first = tended[0].identity
    other = sum(table.identity != first for table in tended)
    missing = abs(first.documents - intent.documents)
    unindexed = sum(table.measured.unindexed for table in tended)
    recall = min((table.recall.share for table in tended if table.recall), default=1.0)
    return [
        Gate("documents_missing", missing, 0, missing == 0),
        Gate("keys_doubled", first.rows - first.keys, 0, first.rows == first.keys),
        Gate("tables_with_other_keys", other, 0, other == 0),
        Gate("rows_unindexed", unindexed, 0, unindexed == 0),
        Gate("gates.recall", recall, gates.recall, recall >= gates.recall),
    ]


@dataclass(frozen=True)
class _Identity:
    """Which (id, chunk) a table holds, in a few numbers: equal for equal sets, in any order."""

    rows: int
    keys: int
    documents: int
    digest: int


def _identity(uri: str, name: str, version: int) -> _Identity:
    hashes = [np.empty(0, np.uint64)]
    documents = 0
    for batch in tables.read(uri, name, version, [schema.ID, schema.CHUNK]):
        frame = pl.DataFrame(pl.from_arrow(batch))
        hashes.append(frame.hash_rows(seed=0).to_numpy())
        documents += int((frame[schema.CHUNK] == 0).sum())
    merged = np.concatenate(hashes)
    digest = int(np.add.reduce(merged, dtype=np.uint64))
    return _Identity(merged.size, int(np.unique(merged).size), documents, digest)


def _norm_error(uri: str, name: str, added: Sequence[dict[str, Any]]) -> float:
    """Largest distance from 1 of a new vector's norm; infinite where one is not finite."""
    worst = 0.0
    for batch in tables.read_staged(uri, name, added, [schema.VECTOR]):
        column = batch.column(0)
        flat = pc.cast(column.flatten(), pa.float32()).to_numpy()
        norms = np.linalg.norm(flat.reshape(len(column), -1).astype(np.float32), axis=1)
        worst = max(worst, float(np.nan_to_num(np.abs(norms - 1.0), nan=np.inf).max(initial=0.0)))
    return worst


def _enforce(gates: Sequence[Gate], way_out: str = "") -> None:
    refused = [f"{gate.name} is {gate.measured:.4g}, allowed {gate.allowed:.4g}" for gate in gates if not gate.holds]
    if refused:
        raise RefusedError(f"not published: {'; '.join(refused)}; the published epoch stays as it is{way_out}")
