"""Maintains and measures a committed table: compaction, indices, identity."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from indexer import schema
from indexer.settings import GateSettings
from indexer.storage import tables, text_index, vector_index
from indexer.storage.records import Intent
from indexer.storage.search_indices import SearchIndices
from indexer.storage.vector_index import Maintenance, Recall, TableStats


@dataclass(frozen=True)
class MaintainedTable:
    """A committed table after its maintenance."""

    name: str
    measured: TableStats
    identity: "_Identity"
    recall: Recall | None
    maintenance: Maintenance
    text_found: float | None = None


def maintain_table(uri: str, name: str, width: int, intent: Intent, gates: GateSettings) -> MaintainedTable:
    """Compacts and indexes a committed width table, then measures it."""
    metric = intent.metadata["metric"]
    kind = vector_index.choose_index_type(intent.vector_index, vector_index.measure(uri, name).rows, width)
    wanted = _search_indices(name, intent)
    maintenance = vector_index.maintain(uri, name, kind, metric, intent.trained_rows.get(name), wanted)
    measured = vector_index.measure(uri, name)
    recall = None
    if measured.index != vector_index.NO_INDEX:
        recall = vector_index.measure_recall(uri, name, measured.version, metric, gates.recall_queries, gates.recall)
    found = text_index.share_found(uri, name, measured.version, measured.text) if measured.text else None
    return MaintainedTable(name, measured, _identity(uri, name, measured.version), recall, maintenance, found)


def _search_indices(name: str, intent: Intent) -> SearchIndices:
    """Filter indices for every table; full text for the narrowest, since all tables hold the same texts."""
    narrowest = min(intent.widths, key=lambda table: intent.widths[table])
    described = intent.description
    return SearchIndices(described.text if name == narrowest else None, described.filters)


@dataclass(frozen=True)
class _Identity:
    """A table's rows without their vectors, condensed to a few numbers: equal for equal sets in any order."""

    rows: int
    keys: int
    documents: int
    digest: int


def _identity(uri: str, name: str, version: int) -> _Identity:
    """Reads keys and hashes of all rows once and condenses them."""
    hashes = [np.empty(0, np.uint64)]
    documents = digest = 0
    for batch in tables.read(uri, name, version, [schema.ID, schema.CHUNK, schema.CONTENT_HASH, schema.PAYLOAD_HASH]):
        frame = pl.DataFrame(pl.from_arrow(batch))
        hashes.append(frame.select(schema.ID, schema.CHUNK).hash_rows(seed=0).to_numpy())
        digest += int(np.add.reduce(frame.hash_rows(seed=0).to_numpy(), dtype=np.uint64))
        documents += int((frame[schema.CHUNK] == 0).sum())
    keys = np.concatenate(hashes)
    return _Identity(keys.size, int(np.unique(keys).size), documents, digest % 2**64)
