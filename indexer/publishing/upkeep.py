"""Maintains and measures a committed table: compaction, indices, identity."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from indexer.publishing import identity, recall_records
from indexer.publishing.identity import Identity
from indexer.settings import GateSettings
from indexer.storage import text_index, vector_index
from indexer.storage.control import ControlStore
from indexer.storage.records import Intent, RecallRecord
from indexer.storage.search_indices import SearchIndices
from indexer.storage.vector_index import Maintenance, TableStats


@dataclass(frozen=True)
class MaintainedTable:
    """A committed table after its maintenance."""

    name: str
    measured: TableStats
    identity: Identity
    recall: RecallRecord | None
    maintenance: Maintenance
    text_found: float | None = None


@dataclass(frozen=True)
class BuiltParts:
    """What tasks did to a large table before its maintenance.

    Attributes:
        compacted: Fragments that were replaced by larger ones.
        trained_rows: Rows its vector index was trained on there, ``None`` if it was not.
    """

    compacted: int = 0
    trained_rows: int | None = None

    def and_then(self, done: Maintenance) -> Maintenance:
        """The whole of what was done, once maintenance did the rest."""
        trained = "trained" if self.trained_rows is not None else done.vector_index
        return replace(done, compacted=self.compacted + done.compacted, vector_index=trained)


def maintain_table(
    uri: str,
    index: str,
    name: str,
    intent: Intent,
    added: Sequence[dict[str, Any]],
    gates: GateSettings,
    built: BuiltParts | None = None,
) -> MaintainedTable:
    """Compacts and indexes a committed table, then measures it.

    Args:
        uri: LanceDB database.
        index: Name of the index.
        name: The table.
        intent: The intent that was committed.
        added: The fragments that it added to the table.
        gates: Bounds.
        built: What was done before; if recall has to be measured, that is then done elsewhere.
    """
    metric = intent.metadata["metric"]
    trained_rows = intent.trained_rows.get(name)
    if built is not None and built.trained_rows is not None:
        trained_rows = built.trained_rows
    kind = index_type(uri, name, intent)
    maintenance = vector_index.maintain(uri, name, kind, metric, trained_rows, search_indices(name, intent))
    measured = vector_index.measure(uri, name)
    recall = recall_records.still_valid(uri, name, intent, measured, gates)
    if recall is None and measured.index != vector_index.NO_INDEX and built is None:
        now = vector_index.measure_recall(uri, name, measured.version, metric, gates.recall_queries, gates.recall)
        recall = recall_records.recorded(uri, name, intent, measured, gates, now)
    found = text_index.share_found(uri, name, measured.version, measured.text) if measured.text else None
    held = identity.of_commit(uri, ControlStore(uri, index), intent, added, name, measured.version)
    done = maintenance if built is None else built.and_then(maintenance)
    return MaintainedTable(name, measured, held, recall, done, found)


def index_type(uri: str, name: str, intent: Intent) -> str:
    """Type of the vector index that a committed table is to have; ``none`` for the table of documents."""
    width = intent.widths.get(name)
    if width is None:
        return vector_index.NO_INDEX
    return vector_index.choose_index_type(intent.vector_index, vector_index.latest_rows(uri, name), width)


def search_indices(name: str, intent: Intent) -> SearchIndices:
    """Filter indices for every table; content hashes for the narrowest; full text for the documents', else likewise.

    All tables hold the same texts.
    """
    narrowest = min(intent.widths, key=lambda table: intent.widths[table])
    described = intent.description
    has_text = name == (intent.documents_table or narrowest)
    return SearchIndices(described.text if has_text else None, described.filters, contents=name == narrowest)
