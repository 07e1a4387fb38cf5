"""Gates: the conditions an epoch must meet before it is published."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from indexer import schema
from indexer.errors import RefusedError
from indexer.publishing.upkeep import MaintainedTable
from indexer.settings import GateSettings
from indexer.storage import tables, vector_columns
from indexer.storage.control import ControlStore
from indexer.storage.records import Intent

LEAST_FOUND = 0.95
"""Share of probed documents that full-text search must find: one of 20 may have stop words alone."""

SHARDS_READ_BACK = 200
"""Staged shards whose vectors are read back before an epoch is committed."""


@dataclass(frozen=True)
class Gate:
    """One condition on an epoch.

    Attributes:
        name: Its name in the summary.
        measured: The measured value.
        allowed: The bound.
        holds: Whether the epoch may be published.
    """

    name: str
    measured: float
    allowed: float
    holds: bool

    def __str__(self) -> str:
        """Name, measured value and bound."""
        return f"{self.name} is {self.measured:.4g}, allowed {self.allowed:.4g}"


class GatesRefusal(RefusedError):
    """Gates refused an epoch.

    Attributes:
        gates: All that were measured together, also those that hold.
    """

    def __init__(self, message: str, gates: Sequence[Gate]) -> None:
        """Keeps the gates beside the message."""
        super().__init__(message)
        self.gates = gates


def file_gate(unread: int, files: int, gates: GateSettings) -> Gate:
    """Gate on the share of files that a run leaves out, whatever they hold."""
    share = unread / files
    return Gate("gates.max_quarantined (files)", share, gates.max_quarantined, share <= gates.max_quarantined)


def count_gates(counts: Mapping[str, int], published: int, gates: GateSettings, most: int | None = None) -> list[Gate]:
    """Gates on the documents that a run would remove, quarantine and embed again; :func:`enforce` applies them.

    Args:
        counts: Counts of the comparison: ``documents``, ``changed``, ``deleted``, ``quarantined``.
        published: Documents of the published epoch.
        gates: Bounds.
        most: Cap on the quarantined rows, ``run.max_quarantine``.
    """
    changed, removed = (counts[name] / max(published, 1) for name in ("changed", "deleted"))
    quarantined = counts["quarantined"] / max(counts["documents"], 1)
    found = [
        Gate("gates.max_changed", changed, gates.max_changed, changed <= gates.max_changed),
        Gate("gates.max_removed", removed, gates.max_removed, removed <= gates.max_removed),
        Gate("gates.max_quarantined", quarantined, gates.max_quarantined, quarantined <= gates.max_quarantined),
    ]
    if most is not None:
        found.append(Gate("run.max_quarantine", counts["quarantined"], most, counts["quarantined"] <= most))
    return found


def check_vectors(
    uri: str, store: ControlStore, epoch: int, receipts: Sequence[str], names: Sequence[str], gates: GateSettings
) -> list[Gate]:
    """Refuses staged vectors that lack unit norm or are not the model's, before anything is committed.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        epoch: Epoch the shards are staged for.
        receipts: Its shards; a random sample of :data:`SHARDS_READ_BACK` is read back.
        names: The width tables.
        gates: Bounds.

    Returns:
        The gates, all of which hold.

    Raises:
        RefusedError: A vector is not finite, its norm is not 1, or it differs from its recomputation.
    """
    staged = store.receipts(epoch)
    sampled = [staged.get(shard_id).sampled_cosine for shard_id in receipts]
    least = min((cosine for cosine in sampled if cosine is not None), default=1.0)
    drawn = random.Random(epoch).sample(receipts, min(len(receipts), SHARDS_READ_BACK))  # noqa: S311  # a sample
    fragments = [staged.get(shard_id).fragments for shard_id in drawn]
    worst = max((_norm_error(uri, name, part.get(name, [])) for part in fragments for name in names), default=0.0)
    found = [
        Gate("gates.norm_tolerance", worst, gates.norm_tolerance, worst <= gates.norm_tolerance),
        Gate("gates.sampled_cosine", least, gates.sampled_cosine, least >= gates.sampled_cosine),
    ]
    enforce(found)
    return found


def table_gates(intent: Intent, maintained: Sequence[MaintainedTable], gates: GateSettings) -> list[Gate]:
    """Gates on the committed tables; :func:`enforce` applies them."""
    first = next(table.identity for table in maintained if table.name in intent.widths)
    other = sum(
        table.identity != (first if table.name in intent.widths else first.of_documents) for table in maintained
    )
    missing = abs(first.documents - intent.documents)
    unindexed = sum(table.measured.unindexed for table in maintained)
    recall = min((table.recall.share for table in maintained if table.recall), default=1.0)
    found = [table.text_found for table in maintained if table.text_found is not None]
    return [
        Gate("documents_missing", missing, 0, missing == 0),
        Gate("keys_doubled", first.rows - first.keys, 0, first.rows == first.keys),
        Gate("tables_with_other_keys", other, 0, other == 0),
        Gate("rows_unindexed", unindexed, 0, unindexed == 0),
        Gate("gates.recall", recall, gates.recall, recall >= gates.recall),
        *(Gate("text_found", share, LEAST_FOUND, share >= LEAST_FOUND) for share in found),
    ]


def quarantine_gate(staged: pa.Table, published: pa.Table) -> Gate:
    """Gate on the rows that the committed quarantine lacks or has beyond those staged, in any order."""
    counts = Counter(_row_hashes(staged))
    counts.subtract(_row_hashes(published))
    wrong = sum(map(abs, counts.values()))
    return Gate("quarantine_rows_wrong", wrong, 0, wrong == 0)


def _row_hashes(rows: pa.Table) -> list[int]:
    """A hash of every row, over all of its columns."""
    return pl.DataFrame(pl.from_arrow(rows)).hash_rows(seed=0).to_list()


def _norm_error(uri: str, name: str, added: Sequence[dict[str, Any]]) -> float:
    """Largest distance from 1 of a new vector's norm; infinite if one is not finite or a row has none."""
    worst = 0.0
    for batch in tables.read_staged(uri, name, added, [schema.VECTOR]):
        norms = np.linalg.norm(tables.to_matrix(batch.column(0)), axis=1)
        is_empty = vector_columns.counts(batch.column(0)).min(initial=1) < 1  # a row that no search would find
        worst = max(worst, float(np.nan_to_num(np.abs(norms - 1.0), nan=np.inf).max(initial=np.inf if is_empty else 0)))
    return worst


def enforce(gates: Sequence[Gate], way_out: str = "") -> None:
    """Raises :class:`GatesRefusal` with every gate that fails, its measured value and its bound."""
    refused = [str(gate) for gate in gates if not gate.holds]
    if refused:
        message = f"not published: {'; '.join(refused)}; the published epoch stays as it is{way_out}"
        raise GatesRefusal(message, gates)
