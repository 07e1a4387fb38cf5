"""Lance tables: stage fragments, commit them once, index, read back. The only door to Lance and LanceDB."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
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
from indexer.objects import ObjectFolder
from indexer.settings import BITS_AT_ONCE

if TYPE_CHECKING:
    from lancedb.table import Table

os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")  # of index statistics, which would take memory

STORAGE_VERSION: Literal["2.1"] = "2.1"
INDEX_CONFIGS = {
    "IVF_FLAT": "IvfFlat",
    "IVF_PQ": "IvfPq",
    "IVF_SQ": "IvfSq",
    "IVF_RQ": "IvfRq",
    "IVF_HNSW_SQ": "HnswSq",
    "IVF_HNSW_PQ": "HnswPq",
}
"""LanceDB's configuration class of each index type, in ``lancedb.index``."""

EPOCH_KEY = b"indexer.epoch"
METADATA_PREFIX = "indexer."

TRIES = 20
RETRYABLE = "Retryable commit conflict"
"""What Lance says when another process committed first; a new look at the table shows what is left to do."""

ROWS_PER_FRAGMENT = 1 << 20
"""Rows to which maintenance compacts fragments."""

NO_INDEX = "none"

IDS_AT_ONCE = 500
"""Ids named in one filter."""

NEAREST = 10
TIE = 1e-5
"""Rows as near as the tenth, but for rounding, are as good: equal texts have equal vectors."""

DEFAULT_PROBES = 20
"""What LanceDB looks into unless told otherwise."""

REFINED = {"PQ": 20, "RQ": 30, "SQ": 3}
"""How many times the rows wanted are found by quantised vectors, to be ranked by the vectors themselves."""

EXACT_COMPONENTS = 1 << 26
"""Vector components (rows x width) below which exact search takes tens of milliseconds and needs no index."""

BITS_ROWS = 20_000_000
"""Rows from which a vector index keeps a bit per component (RaBitQ): one byte for each no longer fits a machine."""

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


def ensure(uri: str, schemas: Mapping[str, pa.Schema]) -> dict[str, int]:
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
        dataset = lance.dataset(_path(uri, name))
    except (ValueError, OSError):
        return _create(uri, name, table_schema)
    if dataset.schema.remove_metadata().equals(table_schema.remove_metadata()):
        return int(dataset.version)
    if _epoch(dataset):
        raise IndexerError(f"table {name} at {uri} has other columns than this run makes; choose another index.name")
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
        fragments = write_fragments(table, _path(uri, name), schema=table.schema)
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
        dataset = lance.dataset(_path(uri, name))
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


@dataclass(frozen=True)
class Maintenance:
    """What maintenance did to a table.

    Attributes:
        compacted: Fragments that were replaced by larger ones.
        vector_index: ``none``, ``extended`` by the new rows, or ``trained`` anew.
        trained_rows: Rows the vector index was last trained on, ``None`` without one.
    """

    compacted: int
    vector_index: Literal["none", "extended", "trained"]
    trained_rows: int | None


def maintain(uri: str, name: str, kind: str, metric: str, trained_rows: int | None = None) -> Maintenance:
    """Compacts fragments, builds the indices that are missing and folds new rows into the others.

    Args:
        uri: LanceDB database.
        name: A width table.
        kind: Type of the vector index, or ``none``.
        metric: Distance of the vector index.
        trained_rows: Rows the vector index was last trained on: a table of twice as many gets a new one.

    Returns:
        What was done.

    Raises:
        IndexerError: Other processes maintain the table at the same time, again and again.
    """
    for _ in range(TRIES):
        try:
            return _maintain(uri, name, kind, metric, trained_rows)
        except (OSError, RuntimeError, ValueError) as error:
            if RETRYABLE not in str(error):
                raise IndexerError(f"cannot maintain table {name}: {first_line(error)}") from None
    raise IndexerError(f"table {name} is maintained by other processes all the time; run again")


def _maintain(uri: str, name: str, kind: str, metric: str, trained_rows: int | None) -> Maintenance:
    dataset = lance.dataset(_path(uri, name))
    compaction = dataset.optimize.compact_files(target_rows_per_fragment=ROWS_PER_FRAGMENT)
    built = {found.field_names[0]: found.name for found in dataset.describe_indices()}
    if kind == NO_INDEX and schema.VECTOR in built:
        dataset.drop_index(built.pop(schema.VECTOR))
    rows = dataset.count_rows()
    if schema.ID not in built and rows:
        dataset.create_scalar_index(schema.ID, "BTREE")
    outgrown = trained_rows is not None and rows >= 2 * trained_rows
    train = kind not in {NO_INDEX, _index_type(dataset)} or (kind != NO_INDEX and outgrown)
    if train:
        _create_vector_index(uri, name, kind, metric)
    lance.dataset(_path(uri, name)).optimize.optimize_indices()
    if not train and schema.VECTOR not in built:
        return Maintenance(compaction.fragments_removed, "none", None)
    return Maintenance(
        compaction.fragments_removed, "trained" if train else "extended", rows if train else trained_rows
    )


def _create_vector_index(uri: str, name: str, kind: str, metric: str) -> None:
    from lancedb import index

    config = getattr(index, INDEX_CONFIGS[kind])(distance_type=metric)
    _lancedb_table(uri, name).create_index(schema.VECTOR, config=config, replace=True)


def _lancedb_table(uri: str, name: str) -> "Table":
    """LanceDB is imported here: workers, which only stage, start 1.5 s sooner without it."""
    import lancedb

    return lancedb.connect(uri).open_table(name)


def vector_index(setting: str, rows: int, width: int) -> str:
    """Type of a table's vector index.

    Args:
        setting: ``auto``, ``none`` or a LanceDB index type.
        rows: Rows of the table.
        width: Its width.

    Returns:
        ``none`` or a LanceDB index type.
    """
    if setting != "auto":
        return setting
    if rows * width < EXACT_COMPONENTS:
        return NO_INDEX
    if rows < BITS_ROWS:
        return "IVF_SQ"
    return "IVF_PQ" if width % BITS_AT_ONCE else "IVF_RQ"


@dataclass(frozen=True)
class Measured:
    """A table as it is.

    Attributes:
        version: Its version.
        rows: Rows.
        bytes: Size of the data files.
        index: Type of the vector index, ``none`` where there is none.
        unindexed: Rows that the indices do not cover.
    """

    version: int
    rows: int
    bytes: int
    index: str
    unindexed: int


def measure(uri: str, name: str) -> Measured:
    """Measures the latest version of a table."""
    dataset = lance.dataset(_path(uri, name))
    indices = dataset.describe_indices()
    unindexed = [dataset.stats.index_stats(found.name)["num_unindexed_rows"] for found in indices]
    files = (file for fragment in dataset.get_fragments() for file in fragment.metadata.files)
    return Measured(
        version=int(dataset.version),
        rows=int(dataset.count_rows()),
        bytes=sum(file.file_size_bytes or 0 for file in files),
        index=_index_type(dataset),
        unindexed=max(unindexed, default=0),
    )


def _index_type(dataset: lance.LanceDataset) -> str:
    """Type of the vector index."""
    kinds = (found.index_type for found in dataset.describe_indices() if found.field_names == [schema.VECTOR])
    return next(kinds, NO_INDEX)


@dataclass(frozen=True)
class Recall:
    """What a vector index finds of what exact search finds.

    Attributes:
        share: Mean share of the 10 nearest rows.
        probes: Partitions each query looked into.
    """

    share: float
    probes: int


def recall(uri: str, name: str, version: int, metric: str, queries: int, wanted: float) -> Recall:
    """Measures a vector index against exact search, with stored vectors as queries.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        metric: Distance of the index.
        queries: Rows drawn at random as queries.
        wanted: Share that is enough: partitions looked into are doubled until it is reached or all are.

    Returns:
        The last measurement.
    """
    dataset = _open(uri, name, version)
    drawn = matrix(dataset.sample(min(queries, dataset.count_rows()), columns=[schema.VECTOR])[schema.VECTOR])
    exact = _nearest(dataset, drawn)
    table: Any = search_table(uri, name, version)  # typed as of before its checkout
    partitions, kind = _partitions(dataset), _index_type(dataset)
    probes = min(DEFAULT_PROBES, partitions)
    while True:
        searches = (approximate(table.search(query).distance_type(metric), kind, probes) for query in drawn)
        found = [search.limit(NEAREST).select([schema.VECTOR, "_distance"]).to_arrow() for search in searches]
        hits = [
            int((matrix(rows[schema.VECTOR]) @ query >= best[-1] - TIE).sum())
            for query, rows, best in zip(drawn, found, exact, strict=True)
        ]
        share = sum(hits) / max(1, exact.size)
        if share >= wanted or probes >= partitions:
            return Recall(share, probes)
        probes = min(2 * probes, partitions)


def approximate(query: Any, index: str, probes: int) -> Any:
    """How an index is searched, whenever its recall is measured and whenever it is used.

    Args:
        query: LanceDB vector query.
        index: Type of the vector index.
        probes: Partitions to look into.

    Returns:
        The query. Quantised vectors are too coarse to rank by: among a million of 256 dimensions, scalar-quantised ones
        have a recall of 0.94 instead of 0.99 when nothing is ranked anew, and save a millisecond.
    """
    query = query.nprobes(probes)
    factor = REFINED.get(index[-2:])
    return query.refine_factor(factor) if factor else query


def _nearest(dataset: lance.LanceDataset, queries: np.ndarray) -> np.ndarray:
    """Cosines of the nearest rows in one pass, largest first; of unit vectors every metric gives the same order."""
    best = np.empty((len(queries), 0), np.float32)
    for batch in dataset.scanner(columns=[schema.VECTOR]).to_batches():
        best = np.concatenate([best, queries @ matrix(batch[schema.VECTOR]).T], axis=1)
        best = -np.sort(-best, axis=1)[:, :NEAREST]
    return best


def matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Vectors of a column, float32, shape (rows, width)."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.cast(whole.flatten(), pa.float32()).to_numpy().reshape(len(whole), -1)


def _partitions(dataset: lance.LanceDataset) -> int:
    """Partitions of the vector index; of several segments the most."""
    (index_name,) = (found.name for found in dataset.describe_indices() if found.field_names == [schema.VECTOR])
    segments = dataset.stats.index_stats(index_name)["indices"]
    return max((int(segment.get("num_partitions", 1)) for segment in segments), default=1)


@dataclass(frozen=True)
class Freed:
    """What pruning a table took away."""

    versions: int
    orphans: int
    bytes: int


def prune(uri: str, name: str, needed: Set[int], staged: Iterable[str]) -> Freed:
    """Deletes versions that nobody needs and staged files that no version holds.

    Versions after the last needed one belong to a commit under way and stay.

    Args:
        uri: LanceDB database.
        name: Table name.
        needed: Versions to keep.
        staged: Data files staged for epochs that are published or given up.

    Returns:
        What was deleted.
    """
    dataset = lance.dataset(_path(uri, name))
    known = {int(version["version"]) for version in dataset.versions()}
    old = sorted(version for version in known - needed if version < max(needed))
    stats = dataset.cleanup_old_versions(versions=old) if old else None
    held = {
        file.path
        for version in known - set(old)
        for fragment in lance.dataset(_path(uri, name), version=version).get_fragments()
        for file in fragment.metadata.files
    }
    folder = ObjectFolder(uri, f"{name}.lance/data", "index.uri")
    sizes = [folder.delete(path) for path in set(staged) - held]
    gone = [size for size in sizes if size]
    return Freed(len(old), len(gone), sum(gone) + (stats.bytes_removed if stats else 0))


def drop(uri: str, name: str) -> int:
    """Deletes a table of an old generation.

    Returns:
        Bytes of its files.
    """
    folder = ObjectFolder(uri, f"{name}.lance", "index.uri")
    # The manifests last: until they are gone a second call finds what the first one left.
    files = sorted(folder.names(""), key=lambda file: file.startswith("_versions/"))
    freed = sum(folder.delete(file) for file in files)
    if "://" not in uri:
        shutil.rmtree(_path(uri, name), ignore_errors=True)  # an object store has no empty folders, a disk has
    return freed


def metadata(uri: str, name: str, version: int) -> dict[str, str]:
    """What the indexer recorded in a table's schema, by key without the ``indexer.`` prefix."""
    entries = {key.decode(): value.decode() for key, value in (_open(uri, name, version).schema.metadata or {}).items()}
    return {
        key.removeprefix(METADATA_PREFIX): value for key, value in entries.items() if key.startswith(METADATA_PREFIX)
    }


def table_schema(uri: str, name: str, version: int) -> pa.Schema:
    """Schema of a table at a published version."""
    return _open(uri, name, version).schema


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
    scanner = _open(uri, name, version).scanner(columns=list(columns), filter=between(schema.ID, low, high))
    yield from scanner.to_batches()


def lookup(uri: str, name: str, version: int, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Rows of some documents of a published table, all their chunks, in no particular order."""
    dataset = _open(uri, name, version)
    parts = [ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE)]
    found = [dataset.scanner(columns=list(columns), filter=one_of(schema.ID, part)).to_table() for part in parts]
    return pa.concat_tables(found) if found else dataset.schema.empty_table().select(list(columns))


def read_staged(
    uri: str, name: str, fragments: Iterable[dict[str, Any]], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Streams columns of staged fragments, committed or not."""
    for file in (file for fragment in fragments for file in fragment["files"]):
        path = f"{_path(uri, name)}/data/{file['path']}"
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
            reader = LanceFileReader(f"{_path(uri, name)}/data/{file['path']}", columns=[schema.VECTOR])
            return matrix(reader.take_rows([row]).to_table()[schema.VECTOR])[0]
        row -= fragment["physical_rows"]
    raise IndexError(row)


def write(uri: str, name: str, table_schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Writes a table of its own, that no epoch knows, in place of one of the same name.

    Raises:
        IndexerError: It cannot be written.
    """
    drop(uri, name)
    reader = pa.RecordBatchReader.from_batches(table_schema, batches)
    try:
        lance.write_dataset(reader, _path(uri, name), mode="create", data_storage_version=STORAGE_VERSION)
    except (OSError, ValueError) as error:
        raise IndexerError(f"cannot write table {name}: {first_line(error)}") from None


def train(uri: str, name: str, kind: str, metric: str) -> int:
    """Gives a table a vector index in place of the one it has.

    Returns:
        The version that has it.

    Raises:
        IndexerError: LanceDB refuses.
    """
    try:
        _create_vector_index(uri, name, kind, metric)
    except (OSError, ValueError, RuntimeError) as error:
        raise IndexerError(f"no {kind} index of table {name}: {first_line(error)}") from None
    return int(lance.dataset(_path(uri, name)).version)


def index_text(uri: str, name: str, column: str) -> int:
    """Gives a table a full-text index with LanceDB's own tokenizer settings; returns the version that has it.

    Raises:
        IndexerError: LanceDB refuses.
    """
    from lancedb.index import FTS

    try:
        _lancedb_table(uri, name).create_index(column, config=FTS(), replace=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise IndexerError(f"no full-text index of table {name}: {first_line(error)}") from None
    return int(lance.dataset(_path(uri, name)).version)


def index_bytes(uri: str, name: str, version: int, column: str) -> int:
    """Size of the indices of a column."""
    described = _open(uri, name, version).describe_indices()
    return sum(found.total_size_bytes or 0 for found in described if found.field_names == [column])


def fused(table: Any, vector: np.ndarray, text: str, column: str) -> Any:
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


def search_table(uri: str, name: str, version: int) -> "Table":
    """LanceDB table checked out at a published version."""
    table = _lancedb_table(uri, name)
    table.checkout(version)
    return table


def one_of(column: str, values: Iterable[str]) -> str:
    """Filter for the rows whose column has one of the values; here and in :func:`between` filters are made."""
    return f"{column} IN ({', '.join(map(_quoted, values))})"


def between(column: str, low: str | None, high: str | None) -> str | None:
    """Filter for ``low <= column < high``; ``None`` is no bound, and no filter where there is none at all."""
    bounds = [] if low is None else [f"{column} >= {_quoted(low)}"]
    bounds += [] if high is None else [f"{column} < {_quoted(high)}"]
    return " AND ".join(bounds) or None


def _quoted(value: str) -> str:
    """SQL string literal: a quote inside is doubled, nothing else has a meaning in it."""
    return "'" + value.replace("'", "''") + "'"


def _path(uri: str, name: str) -> str:
    return f"{uri.rstrip('/')}/{name}.lance" if "://" in uri else str(Path(uri).expanduser() / f"{name}.lance")


def _open(uri: str, name: str, version: int) -> lance.LanceDataset:
    try:
        return lance.dataset(_path(uri, name), version=version)
    except (ValueError, OSError) as error:
        raise IndexerError(f"table {name} cannot be opened at version {version}: {first_line(error)}") from None


def _create(uri: str, name: str, table_schema: pa.Schema, mode: Literal["create", "overwrite"] = "create") -> int:
    try:
        path = _path(uri, name)
        made = lance.write_dataset(table_schema.empty_table(), path, mode=mode, data_storage_version=STORAGE_VERSION)
    except (OSError, ValueError) as error:
        # Another run may have created it a moment ago; then it can be opened, else the first error is the reason.
        try:
            return int(lance.dataset(_path(uri, name)).version)
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
