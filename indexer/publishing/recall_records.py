"""Whether a measured recall still holds for a table, and what an epoch records of a measurement."""

from indexer.settings import GateSettings
from indexer.storage import vector_index
from indexer.storage.records import Intent, RecallRecord
from indexer.storage.vector_index import Recall, TableStats

FEW = 10
"""A measurement holds until one row in so many was added, dropped, or is in another part of the index."""


def still_valid(uri: str, name: str, intent: Intent, measured: TableStats, gates: GateSettings) -> RecallRecord | None:
    """The earlier measurement of a table's vector index if it still tells the recall.

    Args:
        uri: LanceDB database.
        name: The table.
        intent: The intent that was committed; on nights with a full check it has no measurement.
        measured: The table after its maintenance.
        gates: Bounds.

    Returns:
        The record; ``None`` if the recall has to be measured.
    """
    record = intent.recalls.get(name)
    if record is None or measured.index == vector_index.NO_INDEX:
        return None
    if (record.queries, record.wanted) != (gates.recall_queries, gates.recall):
        return None
    # An index that is trained anew, merged or renumbered has other segments. A killed run may have trained it.
    segments = vector_index.segment_rows(uri, name, measured.version)
    same = sum(rows for segment, rows in segments.items() if segment in record.segments)
    differ = (record.rows - same) + (measured.rows - same)
    return record if FEW * differ <= record.rows else None


def recorded(
    uri: str, name: str, intent: Intent, measured: TableStats, gates: GateSettings, recall: Recall
) -> RecallRecord:
    """What the epoch records of a measurement.

    Args:
        uri: LanceDB database.
        name: The table.
        intent: The intent that was committed.
        measured: The table that was measured.
        gates: Bounds.
        recall: What was found.
    """
    return RecallRecord(
        share=recall.share,
        probes=recall.probes,
        rows=measured.rows,
        queries=gates.recall_queries,
        wanted=gates.recall,
        segments=sorted(vector_index.segment_rows(uri, name, measured.version)),
        epoch=intent.epoch,
    )
