"""Lance tables: create, stage fragments, read back."""

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.file import LanceFileReader
from lance.fragment import write_fragments

from indexer import schema
from indexer.errors import IndexerError, SettingsError, first_line
from indexer.storage.filters import between
from indexer.uris import shown

if TYPE_CHECKING:
    from lancedb.table import Table as Table  # noqa: PLC0414  # for those who may not import LanceDB


os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")  # of index statistics, which would take memory

STORAGE_VERSION: Literal["2.1"] = "2.1"

EPOCH_KEY = b"indexer.epoch"

OWNER_KEY = b"indexer.index"
"""Schema metadata: name of the index, or of the job, that made the table."""

INTENT_KEY = b"indexer.intent"
"""Schema metadata: digest of the intent that the table was last committed for."""

METADATA_PREFIX = "indexer."

NOT_FOUND = "not found"
"""Part of Lance's message about a table or version that does not exist."""


READ_AHEAD: dict[str, Any] = {"io_buffer_size": 64 << 20, "batch_readahead": 4}
"""Bytes of a table that are read, and batches that are decoded, before they are taken."""


def create_missing(uri: str, schemas: Mapping[str, pa.Schema], owner: str, known: Container[str] = ()) -> None:
    """Creates missing tables, empty. Replaces tables with other columns that no epoch has committed to.

    Args:
        uri: LanceDB database.
        schemas: Schema of every table by name.
        owner: The index, or the job, whose tables they are.
        known: Tables that the owner committed before tables named their owner.

    Raises:
        SettingsError: A table of that name is not the owner's.
        IndexerError: The location cannot be written, or a table there has other columns.
    """
    # All are looked at before one is made: a name that is taken leaves nothing of a run that is refused.
    opened = _opened(uri, schemas, owner, known, untouched=True)
    for name, table_schema in schemas.items():
        _create_missing(uri, name, table_schema.with_metadata({OWNER_KEY: owner}), opened[name])


def create_gone(uri: str, schemas: Mapping[str, pa.Schema], owner: str, known: Container[str]) -> None:
    """Creates tables that do not exist; a commit is about to replace whatever the others hold.

    Args:
        uri: LanceDB database.
        schemas: Schema of every table by name.
        owner: The index whose tables they are.
        known: Tables that the owner committed before tables named their owner.

    Raises:
        SettingsError: A table of that name is not the owner's.
        IndexerError: The location cannot be written.
    """
    opened = _opened(uri, schemas, owner, known, untouched=False)
    for name in (name for name, dataset in opened.items() if dataset is None):
        _create(uri, name, schemas[name].with_metadata({OWNER_KEY: owner}))


def _opened(
    uri: str, schemas: Mapping[str, pa.Schema], owner: str, known: Container[str], *, untouched: bool
) -> dict[str, lance.LanceDataset | None]:
    """The tables of these names; refuses another owner's, but for untouched ones where they are replaced."""
    opened = {name: open_latest(uri, name) for name in schemas}
    for name, dataset in opened.items():
        if dataset is not None and not (untouched and _is_untouched(dataset, schemas[name])):
            check_owner(dataset, name, owner, known)
    return opened


def _is_untouched(dataset: lance.LanceDataset, table_schema: pa.Schema) -> bool:
    """Whether it is as a killed run left it before tables named their owner: empty and without metadata."""
    return dataset.version == 1 and _is_same(dataset, table_schema) and not dataset.count_rows()


def _is_same(dataset: lance.LanceDataset, table_schema: pa.Schema) -> bool:
    """Whether it has these columns."""
    return bool(dataset.schema.remove_metadata().equals(table_schema.remove_metadata()))


def _create_missing(uri: str, name: str, table_schema: pa.Schema, dataset: lance.LanceDataset | None) -> None:
    """Creates one table, or replaces one that a killed run left before its first commit."""
    if dataset is None:
        _create(uri, name, table_schema)
        return
    if _is_same(dataset, table_schema):
        return
    if epoch_of(dataset):
        raise IndexerError(
            f"table {name} at {shown(uri)} has other columns than this run makes, and no epoch tells of it: build "
            "a new generation beside it with --rebuild always, or choose another index.name"
        )
    # A run with other settings left it: it was killed before its first commit.
    _create(uri, name, table_schema, "overwrite")


def open_latest(uri: str, name: str) -> lance.LanceDataset | None:
    """Latest version of a table, ``None`` where there is none.

    Raises:
        IndexerError: It is there and cannot be opened.
    """
    try:
        return lance.dataset(table_path(uri, name))
    except (ValueError, OSError) as error:
        if NOT_FOUND in str(error).lower():
            return None
        raise IndexerError(f"table {name} cannot be opened: {first_line(error)}") from None


def has_version(uri: str, name: str, version: int) -> bool:
    """Whether a table has a version.

    Raises:
        IndexerError: The version cannot be looked up, or it exists and cannot be opened.
    """
    return open_if_there(uri, name, version) is not None


def open_if_there(uri: str, name: str, version: int) -> lance.LanceDataset | None:
    """A table at a version, ``None`` if there is none.

    Raises:
        IndexerError: The version cannot be looked up, or it exists and cannot be opened.
    """
    try:
        return lance.dataset(table_path(uri, name), version=version)
    except (ValueError, OSError) as error:
        if NOT_FOUND in str(error).lower():
            return None
        raise IndexerError(f"table {name} cannot be opened at version {version}: {first_line(error)}") from None


def check_owner(dataset: lance.LanceDataset, name: str, owner: str, known: Container[str] = ()) -> None:
    """Refuses a table that another index, another job or a person made.

    Raises:
        SettingsError: It is not the owner's.
    """
    found = owner_of(dataset)
    if found == owner or (found is None and name in known):
        return
    whose = f"is a table of {found!r}" if found else "was not made by this program"
    raise SettingsError(f"table {name} exists and {whose}; nothing is written to it: choose another index.name")


def owner_of(dataset: lance.LanceDataset) -> str | None:
    """Name of the index or job that made a table; ``None`` for tables made elsewhere or before 0.2."""
    owner = (dataset.schema.metadata or {}).get(OWNER_KEY)
    return None if owner is None else owner.decode()


def epoch_of(dataset: lance.LanceDataset) -> int:
    """Number of the epoch that a table was last committed for, 0 before the first."""
    return int((dataset.schema.metadata or {}).get(EPOCH_KEY, 0))


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
        # "overwrite" stages as for a new table: "append" refuses if somebody added a column to the latest version.
        fragments = write_fragments(
            table,
            table_path(uri, name),
            schema=table.schema,
            mode="overwrite",
            data_storage_version=STORAGE_VERSION,
        )
    except (OSError, ValueError) as error:
        raise IndexerError(f"cannot write to table {name}: {first_line(error)}") from None
    return [fragment.to_json() for fragment in fragments]


def lancedb_table(uri: str, name: str) -> "Table":
    """A LanceDB table. LanceDB is imported here: workers, which only stage, start 1.5 s sooner without it."""
    import lancedb

    return lancedb.connect(uri).open_table(name)


def to_matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Vectors of a column laid end to end, float32, shape (vectors, width): (rows, width) where each row has one."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    single = whole.flatten() if is_multivector(whole.type) else whole
    return pc.cast(single.flatten(), pa.float32()).to_numpy().reshape(len(single), single.type.list_size)


def is_multivector(column_type: pa.DataType) -> bool:
    """Whether each row of a column has a list of vectors."""
    return bool(pa.types.is_list(column_type))


def entries(dataset: lance.LanceDataset) -> dict[str, str]:
    """The indexer's entries in a table's schema metadata, by key without the ``indexer.`` prefix."""
    found = {key.decode(): value.decode() for key, value in (dataset.schema.metadata or {}).items()}
    return {key.removeprefix(METADATA_PREFIX): value for key, value in found.items() if key.startswith(METADATA_PREFIX)}


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

    Raises:
        IndexerError: The table cannot be read.
    """
    dataset = open_version(uri, name, version)
    # Lance would read up to 2 GiB ahead of whoever takes the batches.
    scanner = dataset.scanner(
        columns=list(columns),
        filter=between(schema.ID, low, high),
        **READ_AHEAD,
    )
    with reading(dataset):
        yield from scanner.to_batches()


@contextmanager
def reading(dataset: lance.LanceDataset) -> Iterator[None]:
    """Lance's and Arrow's errors about a table as ours: a data file of it is gone or damaged."""
    try:
        yield
    except (OSError, ValueError) as error:  # Arrow's own are of these
        name = dataset.uri.rsplit("/", 1)[-1].removesuffix(".lance")
        raise IndexerError(f"table {name} cannot be read at version {dataset.version}: {first_line(error)}") from None


def read_all(uri: str, name: str, version: int, columns: pa.Schema) -> pa.Table:
    """All rows of a version with some columns, for tables that memory holds, as the quarantine."""
    return pa.Table.from_batches(read(uri, name, version, columns.names), columns)


def count_rows(uri: str, name: str, version: int) -> int:
    """Rows of a published table."""
    return int(open_version(uri, name, version).count_rows())


def read_staged(
    uri: str, name: str, fragments: Iterable[dict[str, Any]], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Streams columns of staged fragments, committed or not."""
    for file in (file for fragment in fragments for file in fragment["files"]):
        path = f"{table_path(uri, name)}/data/{file['path']}"
        yield from LanceFileReader(path, columns=list(columns)).read_all().to_batches()


def lookup_staged(
    uri: str, name: str, fragments: Iterable[dict[str, Any]], ids: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    """Rows of some documents in staged fragments, all their chunks; only their rows are read whole."""
    wanted = pa.array(ids, pa.string())
    found = []
    for file in (file for fragment in fragments for file in fragment["files"]):
        path = f"{table_path(uri, name)}/data/{file['path']}"
        there = LanceFileReader(path, columns=[schema.ID]).read_all().to_table()[schema.ID]
        rows = np.flatnonzero(pc.is_in(there, value_set=wanted).to_numpy(zero_copy_only=False))
        found.append(LanceFileReader(path, columns=list(columns)).take_rows(rows.tolist()).to_table())
    return pa.concat_tables(found)


def read_staged_vectors(uri: str, name: str, fragments: Iterable[dict[str, Any]], row: int) -> np.ndarray:
    """The vectors of one row of staged fragments, float32, shape (its vectors, width).

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
            return to_matrix(reader.take_rows([row]).to_table()[schema.VECTOR])
        row -= fragment["physical_rows"]
    raise IndexError(row)


def search_table(uri: str, name: str, version: int) -> "Table":
    """LanceDB table checked out at a published version.

    Raises:
        IndexerError: It cannot be opened.
    """
    open_version(uri, name, version)
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
        reason = "it was pruned or cleaned up" if NOT_FOUND in str(error).lower() else first_line(error)
        raise IndexerError(f"table {name} cannot be opened at version {version}: {reason}") from None


def _create(uri: str, name: str, table_schema: pa.Schema, mode: Literal["create", "overwrite"] = "create") -> None:
    """Creates an empty table, or replaces one by an empty table."""
    try:
        path = table_path(uri, name)
        lance.write_dataset(table_schema.empty_table(), path, mode=mode, data_storage_version=STORAGE_VERSION)
    except (OSError, ValueError) as error:
        # Another run may have created it a moment ago; then it can be opened, else the first error is the reason.
        if open_latest(uri, name) is None:
            raise IndexerError(f"cannot create table {name}: {first_line(error)}") from None


def check_condition(uri: str, name: str, version: int, where: str) -> None:
    """Refuses a condition that Lance does not understand.

    Raises:
        SettingsError: Says why.
    """
    try:
        open_version(uri, name, version).scanner(columns=[schema.ID], filter=where).explain_plan()
    except (ValueError, OSError) as error:
        raise SettingsError(f"the condition is refused: {first_line(error)}") from None
