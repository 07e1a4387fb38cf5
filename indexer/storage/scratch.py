"""Tables outside every epoch: copies for an evaluation, with the indices it compares."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.errors import IndexerError, first_line
from indexer.storage.cleanup import drop
from indexer.storage.tables import OWNER_KEY, STORAGE_VERSION, lancedb_table, open_version, table_path
from indexer.storage.vector_index import create_vector_index

if TYPE_CHECKING:
    pass


OWNER = "jobs.evaluate"
"""Owner that the copies' metadata names."""


def write(uri: str, name: str, table_schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Writes a table outside every epoch; replaces one of the same name.

    Raises:
        SettingsError: Somebody else made the table of that name.
        IndexerError: It cannot be written.
    """
    drop(uri, name, OWNER)
    marked = table_schema.with_metadata({OWNER_KEY: OWNER})
    reader = pa.RecordBatchReader.from_batches(marked, (batch.cast(marked) for batch in batches))
    try:
        lance.write_dataset(reader, table_path(uri, name), mode="create", data_storage_version=STORAGE_VERSION)
    except (OSError, ValueError) as error:
        raise IndexerError(f"cannot write table {name}: {first_line(error)}") from None


def build_vector_index(uri: str, name: str, kind: str, metric: str) -> int:
    """Gives a table a vector index in place of the one it has.

    Returns:
        The version that has it.

    Raises:
        IndexerError: LanceDB refuses.
    """
    try:
        create_vector_index(uri, name, kind, metric)
    except (OSError, ValueError, RuntimeError) as error:
        raise IndexerError(f"no {kind} index of table {name}: {first_line(error)}") from None
    return int(lance.dataset(table_path(uri, name)).version)


def index_text(uri: str, name: str, column: str) -> int:
    """Gives a table a full-text index with LanceDB's own tokenizer settings; returns the version that has it.

    Raises:
        IndexerError: LanceDB refuses.
    """
    from lancedb.index import FTS

    try:
        lancedb_table(uri, name).create_index(column, config=FTS(), replace=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise IndexerError(f"no full-text index of table {name}: {first_line(error)}") from None
    return int(lance.dataset(table_path(uri, name)).version)


def index_bytes(uri: str, name: str, version: int, column: str) -> int:
    """Size of the indices of a column."""
    described = open_version(uri, name, version).describe_indices()
    return sum(found.total_size_bytes or 0 for found in described if found.field_names == [column])


def hybrid_query(table: Any, vector: np.ndarray, text: str, column: str) -> Any:
    """LanceDB query that searches by vector, exactly, and by text, and fuses both by reciprocal rank.

    Args:
        table: LanceDB table with a full-text index.
        vector: Query vector, float32, shape (width,).
        text: Query text.
        column: Column with the full-text index.

    Returns:
        The query, without a limit.
    """
    from lancedb.rerankers import RRFReranker

    query = table.search(query_type="hybrid", vector_column_name=schema.VECTOR, fts_columns=[column])
    return query.vector(vector).text(text).bypass_vector_index().rerank(RRFReranker())
