"""Tables outside every epoch: copies for an evaluation, with the indices it compares."""

from collections.abc import Collection, Iterable

import lance
import pyarrow as pa

from indexer.errors import IndexerError, first_line
from indexer.storage import scalar_indices, text_index
from indexer.storage.cleanup import drop
from indexer.storage.description import TextRecord
from indexer.storage.tables import OWNER_KEY, STORAGE_VERSION, open_version, table_path
from indexer.storage.vector_index import create_vector_index

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


def index_text(uri: str, name: str, text: TextRecord) -> int:
    """Gives a table full-text indices; returns the version that has them.

    Raises:
        IndexerError: Lance refuses.
    """
    dataset = lance.dataset(table_path(uri, name))
    try:
        for column in text.columns:
            scalar_indices.build(dataset, text_index.spec(column, text))
    except (OSError, ValueError, RuntimeError) as error:
        raise IndexerError(f"no full-text index of table {name}: {first_line(error)}") from None
    return int(lance.dataset(table_path(uri, name)).version)


def index_bytes(uri: str, name: str, version: int, columns: Collection[str], kind: str | None = None) -> int:
    """Size of the indices of some columns, of one kind by Lance's name or of all."""
    described = open_version(uri, name, version).describe_indices()
    return sum(
        found.total_size_bytes or 0
        for found in described
        if found.field_names[0] in columns and kind in {None, found.index_type}
    )
