"""Lance tables: stage fragments, commit them once, index, read back. The only door to Lance and LanceDB."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceOperation
from lance.commit import CommitConflictError
from lance.file import LanceFileReader
from lance.fragment import FragmentMetadata, write_fragments
from lance.schema import LanceSchema

from indexer import schema
from indexer.errors import IndexerError, RefusedError, first_line
from indexer.storage.filters import between, one_of
from indexer.uris import shown

if TYPE_CHECKING:
    from lancedb.table import Table as Table  # noqa: PLC0414  # for those who may not import LanceDB


os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")  # of index statistics, which would take memory

STORAGE_VERSION: Literal["2.1"] = "2.1"

EPOCH_KEY = b"indexer.epoch"

METADATA_PREFIX = "indexer."

IDS_AT_ONCE = 500
"""Ids named in one filter."""

ADDRESS_BITS = 32
"""A Lance row address is the fragment's id and, in the lower 32 bits, the row's offset in it."""


@dataclass(frozen=True)
class Change:
    """What one epoch does to one table.

    Attributes:
        epoch: Number of the epoch.
        base: Version it starts from.
        added: Staged fragments, as Lance describes them.
        dropped: Ids whose rows go; ``None`` when all do and the added fragments become the whole content.
        metadata: Schema metadata of the result.
    """

    epoch: int
    base: int
    added: Sequence[dict[str, Any]]
    dropped: pa.ChunkedArray | None
    metadata: Mapping[str, str]


def create_missing(uri: str, schemas: Mapping[str, pa.Schema]) -> dict[str, int]:
    """Creates the tables that are missing, empty; likewise those that no epoch has touched and that are otherwise made.

    Args:
        uri: LanceDB database.
        schemas: Schema of every table by name.

    Returns:
        Latest version of each.

    Raises:
        IndexerError: The location cannot be written, or a table there has other columns.
    """
    return {name: _ensured(uri, name, table_schema) for name, table_schema in schemas.items()}


def _ensured(uri: str, name: str, table_schema: pa.Schema) -> int:
    try:
        dataset = lance.dataset(table_path(uri, name))
    except (ValueError, OSError):
        return _create(uri, name, table_schema)
    if dataset.schema.remove_metadata().equals(table_schema.remove_metadata()):
        return int(dataset.version)
    if _epoch(dataset):
        raise IndexerError(
            f"table {name} at {shown(uri)} has other columns than this run makes; choose another index.name"
        )
    # Left by a run that was killed before its first commit, and whose settings were others.
    return _create(uri, name, table_schema, "overwrite")


def stage(uri: str, name: str, table: pa.Table) -> list[dict[str, Any]]:
    """Writes rows as fragments that no version of the table holds yet.

    Args:
        uri: LanceDB database.
        name: Table name.
        table: Rows in the table's schema.

    Returns:
        The fragments, as Lance describes them, JSON-ready.

    Raises:
        IndexerError: They cannot be written.
    """
    try:
        fragments = write_fragments(table, table_path(uri, name), schema=table.schema)
    except (OSError, ValueError) as error:
        raise IndexerError(f"cannot write to table {name}: {first_line(error)}") from None
    return [fragment.to_json() for fragment in fragments]


def commit(uri: str, name: str, change: Change) -> int:
    """Makes an epoch's change to a table, exactly once whoever calls it how often.

    The commit replaces the table's list of fragments if its version is still the one read (compare and swap); the
    epoch's number in the schema metadata says that it is done.

    Args:
        uri: LanceDB database.
        name: Table name.
        change: What to do.

    Returns:
        The version that holds the change.

    Raises:
        RefusedError: The table is already at a later epoch.
        IndexerError: A staged file is missing or the table cannot be written.
    """
    while True:
        dataset = lance.dataset(table_path(uri, name))
        done = _epoch(dataset)
        if done == change.epoch:
            return int(dataset.version)
        if done > change.epoch:
            raise RefusedError(f"table {name} is already at epoch {done}; epoch {change.epoch} is out of date")
        _check_staged(dataset, change.added)
        try:
            written = _overwrite(dataset, change) if change.dropped is None else _merge(dataset, change)
        except CommitConflictError:
            continue
        except OSError as error:
            raise IndexerError(f"cannot commit to table {name}: {first_line(error)}") from None
        return int(written.version)


def lancedb_table(uri: str, name: str) -> "Table":
    """LanceDB is imported here: workers, which only stage, start 1.5 s sooner without it."""
    import lancedb

    return lancedb.connect(uri).open_table(name)


def to_matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Vectors of a column, float32, shape (rows, width)."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.cast(whole.flatten(), pa.float32()).to_numpy().reshape(len(whole), -1)


def metadata(uri: str, name: str, version: int) -> dict[str, str]:
    """What the indexer recorded in a table's schema, by key without the ``indexer.`` prefix."""
    entries = {
        key.decode(): value.decode() for key, value in (open_version(uri, name, version).schema.metadata or {}).items()
    }
    return {
        key.removeprefix(METADATA_PREFIX): value for key, value in entries.items() if key.startswith(METADATA_PREFIX)
    }


def table_schema(uri: str, name: str, version: int) -> pa.Schema:
    """Schema of a table at a published version."""
    return open_version(uri, name, version).schema


def read(
    uri: str, name: str, version: int, columns: Sequence[str], low: str | None = None, high: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Streams columns of a published table.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        columns: Columns to read.
        low: Least id wanted, ``None`` for no bound.
        high: Id above the last one wanted, ``None`` for no bound.

    Yields:
        Batches, in no particular order.
    """
    scanner = open_version(uri, name, version).scanner(columns=list(columns), filter=between(schema.ID, low, high))
    yield from scanner.to_batches()


def lookup(uri: str, name: str, version: int, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Rows of some documents of a published table, all their chunks, in no particular order."""
    dataset = open_version(uri, name, version)
    parts = [ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE)]
    found = [dataset.scanner(columns=list(columns), filter=one_of(schema.ID, part)).to_table() for part in parts]
    return pa.concat_tables(found) if found else dataset.schema.empty_table().select(list(columns))


def read_staged(
    uri: str, name: str, fragments: Iterable[dict[str, Any]], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Streams columns of staged fragments, committed or not."""
    for file in (file for fragment in fragments for file in fragment["files"]):
        path = f"{table_path(uri, name)}/data/{file['path']}"
        yield from LanceFileReader(path, columns=list(columns)).read_all().to_batches()


def read_staged_vector(uri: str, name: str, fragments: Iterable[dict[str, Any]], row: int) -> np.ndarray:
    """One vector of staged fragments, float32, shape (width,).

    Args:
        uri: LanceDB database.
        name: Table name.
        fragments: As :func:`stage` gave them.
        row: Number of the row among those staged.
    """
    for fragment in fragments:
        if row < fragment["physical_rows"]:
            (file,) = fragment["files"]
            reader = LanceFileReader(f"{table_path(uri, name)}/data/{file['path']}", columns=[schema.VECTOR])
            return to_matrix(reader.take_rows([row]).to_table()[schema.VECTOR])[0]
        row -= fragment["physical_rows"]
    raise IndexError(row)


def search_table(uri: str, name: str, version: int) -> "Table":
    """LanceDB table checked out at a published version."""
    table = lancedb_table(uri, name)
    table.checkout(version)
    return table


def table_path(uri: str, name: str) -> str:
    """Where Lance finds a table."""
    return f"{uri.rstrip('/')}/{name}.lance" if "://" in uri else str(Path(uri).expanduser() / f"{name}.lance")


def open_version(uri: str, name: str, version: int) -> lance.LanceDataset:
    """A table at a version; raises :class:`IndexerError` where it cannot be opened."""
    try:
        return lance.dataset(table_path(uri, name), version=version)
    except (ValueError, OSError) as error:
        raise IndexerError(f"table {name} cannot be opened at version {version}: {first_line(error)}") from None


def _create(uri: str, name: str, table_schema: pa.Schema, mode: Literal["create", "overwrite"] = "create") -> int:
    try:
        path = table_path(uri, name)
        made = lance.write_dataset(table_schema.empty_table(), path, mode=mode, data_storage_version=STORAGE_VERSION)
    except (OSError, ValueError) as error:
        # Another run may have created it a moment ago; then it can be opened, else the first error is the reason.
        try:
            return int(lance.dataset(table_path(uri, name)).version)
        except (OSError, ValueError):
            raise IndexerError(f"cannot create table {name}: {first_line(error)}") from None
    return int(made.version)


def _epoch(dataset: lance.LanceDataset) -> int:
    return int((dataset.schema.metadata or {}).get(EPOCH_KEY, 0))


def _metadata(change: Change) -> dict[str, str]:
    entries = {METADATA_PREFIX + key: value for key, value in change.metadata.items()}
    return entries | {EPOCH_KEY.decode(): str(change.epoch)}


def _fragment(described: dict[str, Any]) -> FragmentMetadata:
    return FragmentMetadata.from_json(json.dumps(described))


def _check_staged(dataset: lance.LanceDataset, added: Iterable[dict[str, Any]]) -> None:
    """A commit of a missing file would give a table that nobody can read."""
    files = dataset.new_file_session()
    for described in added:
        for file in described["files"]:
            if not files.contains(f"data/{file['path']}"):
                raise IndexerError(f"staged file {file['path']} is missing")


def _at_base(dataset: lance.LanceDataset, base: int) -> lance.LanceDataset:
    """The table with the content of the published version, whatever happened to it since."""
    if dataset.version == base:
        return dataset
    return lance.LanceDataset.commit(dataset, LanceOperation.Restore(base), dataset.version, max_retries=0)


def _overwrite(dataset: lance.LanceDataset, change: Change) -> lance.LanceDataset:
    target = dataset.schema.with_metadata(_metadata(change))
    operation = LanceOperation.Overwrite(target, [_fragment(described) for described in change.added])
    # Without retries Lance refuses to overwrite a version that it has not read: compare and swap here too.
    return lance.LanceDataset.commit(dataset, operation, dataset.version, max_retries=0)


def _merge(dataset: lance.LanceDataset, change: Change) -> lance.LanceDataset:
    dataset = _at_base(dataset, change.base)
    kept = [part for part in _kept(dataset, change.dropped) if part is not None]
    added = [_fragment(described) for described in change.added]
    for fragment_id, fragment in enumerate(added, _free_id(dataset)):
        fragment.id = fragment_id
    emptied = {part.fragment_id for part in dataset.get_fragments()} - {part.id for part in kept}
    if emptied:
        # In a commit of their own: Lance refuses a Merge without one of the fragments there are.
        delete = LanceOperation.Delete([], sorted(emptied), "true")
        dataset = lance.LanceDataset.commit(dataset, delete, dataset.version, max_retries=0)
    target = dataset.schema.with_metadata(_metadata(change))
    merge = LanceOperation.Merge([*kept, *added], LanceSchema.from_pyarrow(target), preserves_nullability=False)
    return lance.LanceDataset.commit(dataset, merge, dataset.version)


def _kept(dataset: lance.LanceDataset, dropped: pa.ChunkedArray | None) -> Iterator[FragmentMetadata | None]:
    """Every fragment without the dropped rows; ``None`` for one of which nothing is left."""
    for fragment in dataset.get_fragments():
        offsets = _offsets(fragment, dropped) if dropped else []
        yield fragment.delete_rows(offsets) if len(offsets) else fragment.metadata


def _offsets(fragment: lance.LanceFragment, ids: pa.ChunkedArray) -> list[int]:
    """Offsets of the rows with one of the ids."""
    rows = fragment.scanner(columns=[schema.ID], with_row_address=True).to_table()
    found = rows.filter(pc.is_in(rows[schema.ID], value_set=ids))["_rowaddr"].to_numpy()
    return [int(address) for address in found & np.uint64((1 << ADDRESS_BITS) - 1)]


def _free_id(dataset: lance.LanceDataset) -> int:
    """First fragment id that neither a fragment nor an index has seen; 0 would be renumbered."""
    segments = (segment for found in dataset.describe_indices() for segment in found.segments)
    covered = (fragment for segment in segments for fragment in segment.fragment_ids)
    return 1 + max([0, *(part.fragment_id for part in dataset.get_fragments()), *covered])
