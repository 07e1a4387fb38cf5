"""Maintains and measures a committed table: compaction, indices, identity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from indexer.publishing import identity
from indexer.publishing.identity import Identity
from indexer.settings import GateSettings
from indexer.storage import text_index, vector_index
from indexer.storage.control import ControlStore
from indexer.storage.records import Intent
from indexer.storage.search_indices import SearchIndices
from indexer.storage.vector_index import Maintenance, Recall, TableStats


@dataclass(frozen=True)
class MaintainedTable:
    """A committed table after its maintenance."""

    name: str
    measured: TableStats
    identity: Identity
    recall: Recall | None
    maintenance: Maintenance
    text_found: float | None = None


def maintain_table(
    uri: str,
    index: str,
    name: str,
    width: int | None,
    intent: Intent,
    added: Sequence[dict[str, Any]],
    gates: GateSettings,
) -> MaintainedTable:
    """Compacts and indexes a committed table, then measures it.

    Args:
        uri: LanceDB database.
        index: Name of the index.
        name: The table.
        width: Its width, ``None`` for the table of documents.
        intent: The intent that was committed.
        added: The fragments that it added to the table.
        gates: Bounds.
    """
    metric = intent.metadata["metric"]
    kind = vector_index.NO_INDEX
    if width is not None:
        kind = vector_index.choose_index_type(intent.vector_index, vector_index.measure(uri, name).rows, width)
    wanted = _search_indices(name, intent)
    maintenance = vector_index.maintain(uri, name, kind, metric, intent.trained_rows.get(name), wanted)
    measured = vector_index.measure(uri, name)
    recall = None
    if measured.index != vector_index.NO_INDEX:
        recall = vector_index.measure_recall(uri, name, measured.version, metric, gates.recall_queries, gates.recall)
    found = text_index.share_found(uri, name, measured.version, measured.text) if measured.text else None
    held = identity.of_commit(uri, ControlStore(uri, index), intent, added, name, measured.version)
    return MaintainedTable(name, measured, held, recall, maintenance, found)


def _search_indices(name: str, intent: Intent) -> SearchIndices:
    """Filter indices for every table; content hashes for the narrowest; full text for the documents', else likewise.

    All tables hold the same texts.
    """
    narrowest = min(intent.widths, key=lambda table: intent.widths[table])
    described = intent.description
    has_text = name == (intent.documents_table or narrowest)
    return SearchIndices(described.text if has_text else None, described.filters, contents=name == narrowest)
