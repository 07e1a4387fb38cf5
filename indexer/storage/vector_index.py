"""Vector indices: chooses the type, builds and maintains them, measures their recall."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import lance
import numpy as np

from indexer import schema
from indexer.errors import IndexerError, first_line
from indexer.settings import BITS_AT_ONCE
from indexer.storage import compaction, exact_neighbours, scalar_indices, search_indices, text_index
from indexer.storage.exact_neighbours import NEAREST
from indexer.storage.search_indices import NO_SEARCH_INDICES, SearchIndices
from indexer.storage.tables import lancedb_table, open_version, search_table, table_path, to_matrix

if TYPE_CHECKING:
    from lancedb.query import LanceVectorQueryBuilder

    from indexer.storage.tables import Table

Metric = Literal["cosine", "dot", "l2"]


INDEX_CONFIGS = {
    "IVF_FLAT": "IvfFlat",
    "IVF_PQ": "IvfPq",
    "IVF_SQ": "IvfSq",
    "IVF_RQ": "IvfRq",
    "IVF_HNSW_SQ": "HnswSq",
    "IVF_HNSW_PQ": "HnswPq",
}
"""LanceDB's configuration class of each index type, in ``lancedb.index``."""

TRIES = 20

RETRYABLE = "Retryable commit conflict"
"""Part of Lance's message if another process committed first. Opening the table again shows what is left to do."""

SEGMENT_ROWS = 1 << 20
"""Rows of a table from which new rows get a segment of their own in its scalar and full-text indices."""

MOST_SEGMENTS = 16
"""Most segments of an index: every look-up asks all, and Lance compacts fragments of one segment only."""

JOINED_SEGMENTS = 8
"""Newest segments of a vector index that become one; those before them may be the parts that were built at first."""

NO_INDEX = "none"

NAME = "vector_idx"
"""Name that LanceDB gives the index."""

TIE = 1e-5
"""Rounding allowance: rows as near as the tenth count as found, since equal texts have equal vectors."""

DEFAULT_PROBES = 20
"""Partitions that LanceDB searches by default."""

REFINED = {"PQ": 20, "RQ": 30, "SQ": 3}
"""Refine factor by quantisation: multiple of the wanted rows found by quantised vectors and re-ranked exactly."""

EXACT_COMPONENTS = 1 << 26
"""Vector components (rows x width) below which exact search takes tens of milliseconds and needs no index."""

PQ_CENTRES = 256
"""Centres of a codebook of 8 bits. Lance trains none on fewer rows, and leaves an index that covers no row."""

BITS_ROWS = 20_000_000
"""Rows from which an index keeps a bit per component (RaBitQ): a byte per component would exceed one machine."""


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


def maintain(
    uri: str,
    name: str,
    kind: str,
    metric: str,
    trained_rows: int | None = None,
    wanted: SearchIndices = NO_SEARCH_INDICES,
) -> Maintenance:
    """Compacts fragments, builds missing indices and adds new rows to existing ones.

    Args:
        uri: LanceDB database.
        name: A width table.
        kind: Type of the vector index, or ``none``.
        metric: Distance of the vector index.
        trained_rows: Rows the vector index was last trained on. Twice as many rows get a new index.
        wanted: Full-text and filter indices; others are dropped.

    Returns:
        What was done.

    Raises:
        IndexerError: Other processes maintain the table at the same time, again and again.
    """
    for _ in range(TRIES):
        try:
            return _maintain(uri, name, kind, metric, trained_rows, wanted)
        except (OSError, RuntimeError, ValueError) as error:
            if RETRYABLE not in str(error):
                raise IndexerError(f"cannot maintain table {name}: {first_line(error)}") from None
    raise IndexerError(
        f"table {name} keeps being changed by other processes while it is maintained; run again when they are done"
    )


def _maintain(
    uri: str, name: str, kind: str, metric: str, trained_rows: int | None, wanted: SearchIndices
) -> Maintenance:
    """One attempt of :func:`maintain` on the latest version."""
    dataset = lance.dataset(table_path(uri, name))
    compacted = compaction.compact(dataset)
    built = {found.field_names[0]: found.name for found in dataset.describe_indices()}
    if kind == NO_INDEX and schema.VECTOR in built:
        dataset.drop_index(built.pop(schema.VECTOR))
    rows = dataset.count_rows()
    search_indices.make(dataset, wanted)
    train = must_train(dataset, kind, metric, trained_rows)
    if train:
        create_vector_index(uri, name, kind, metric)
    _fold_in(lance.dataset(table_path(uri, name)))
    if not train and schema.VECTOR not in built:
        return Maintenance(compacted, "none", None)
    return Maintenance(compacted, "trained" if train else "extended", rows if train else trained_rows)


def must_train(dataset: lance.LanceDataset, kind: str, metric: str, trained_rows: int | None) -> bool:
    """Whether a table's vector index is missing, another one, or was trained on half the rows or fewer."""
    outgrown = trained_rows is not None and dataset.count_rows() >= 2 * trained_rows
    # An index answers in its own metric: another one needs another index.
    is_other = (kind, metric) != (_index_type(dataset), _index_metric(dataset))
    return kind != NO_INDEX and (is_other or outgrown)


def _fold_in(dataset: lance.LanceDataset) -> None:
    """Adds new rows to the indices: to those of vectors, and to all of large tables, as further segments."""
    is_large = dataset.count_rows() > SEGMENT_ROWS
    found = dataset.describe_indices()
    segments = {index.name: len(index.segments) for index in found if index.field_names != [schema.VECTOR]}
    grown = {name for name in segments if dataset.stats.index_stats(name)["num_unindexed_rows"]}
    # One segment would be written anew every night. Segments that were built in parts stay until there are new rows.
    extended = sorted(name for name in grown if is_large and segments[name] < MOST_SEGMENTS)
    merged = sorted(grown.difference(extended))
    for names, most in ((extended, 0), (merged, max((segments[name] for name in merged), default=0))):
        if names:
            dataset.optimize.optimize_indices(index_names=names, num_indices_to_merge=most)
    # Lance itself gives new rows a segment in a vector index, and writes others anew where a partition has outgrown.
    for index in (index for index in found if index.field_names == [schema.VECTOR]):
        joined = {"num_indices_to_merge": JOINED_SEGMENTS} if len(index.segments) >= MOST_SEGMENTS else {}
        dataset.optimize.optimize_indices(index_names=[index.name], **joined)


def create_vector_index(uri: str, name: str, kind: str, metric: str) -> None:
    """Builds the index; replaces an existing one."""
    lancedb_table(uri, name).create_index(schema.VECTOR, config=configuration(kind, metric), replace=True)


def configuration(kind: str, metric: str) -> Any:
    """LanceDB's configuration of an index type, with its defaults."""
    from lancedb import index

    return getattr(index, INDEX_CONFIGS[kind])(distance_type=metric)


def latest_rows(uri: str, name: str) -> int:
    """Rows of the latest version of a table."""
    return int(lance.dataset(table_path(uri, name)).count_rows())


def choose_index_type(setting: str, rows: int, width: int) -> str:
    """Type of a table's vector index: none where there are too few rows to train it.

    Args:
        setting: ``auto``, ``none`` or a LanceDB index type.
        rows: Rows of the table.
        width: Its width.

    Returns:
        ``none`` or a LanceDB index type.
    """
    if rows < (PQ_CENTRES if setting.endswith("PQ") else 1):
        return NO_INDEX
    if setting != "auto":
        return setting
    if rows * width < EXACT_COMPONENTS:
        return NO_INDEX
    if rows < BITS_ROWS:
        return "IVF_SQ"
    return "IVF_PQ" if width % BITS_AT_ONCE else "IVF_RQ"


@dataclass(frozen=True)
class TableStats:
    """A table as it is.

    Attributes:
        version: Its version.
        rows: Rows.
        bytes: Size of the data files.
        index: Type of the vector index, ``none`` where there is none.
        unindexed: Rows that the indices do not cover.
        text: Columns with a full-text index.
        filters: Kind of scalar index by column.
        search_bytes: Size of these indices.
    """

    version: int
    rows: int
    bytes: int
    index: str
    unindexed: int
    text: Sequence[str] = ()
    filters: Mapping[str, str] = field(default_factory=dict)
    search_bytes: int = 0


def measure(uri: str, name: str) -> TableStats:
    """Measures the latest version of a table."""
    dataset = lance.dataset(table_path(uri, name))
    indices = dataset.describe_indices()
    unindexed = [dataset.stats.index_stats(found.name)["num_unindexed_rows"] for found in indices]
    files = (file for fragment in dataset.get_fragments() for file in fragment.metadata.files)
    return TableStats(
        version=int(dataset.version),
        rows=int(dataset.count_rows()),
        bytes=sum(file.file_size_bytes or 0 for file in files),
        index=_index_type(dataset),
        unindexed=max(unindexed, default=0),
        text=text_index.indexed_columns(dataset),
        filters=scalar_indices.built(dataset),
        search_bytes=search_indices.index_bytes(dataset),
    )


def segment_rows(uri: str, name: str, version: int) -> dict[str, int]:
    """Rows that every segment of a table's vector index covers, by the segment's UUID; deleted rows do not count."""
    dataset = open_version(uri, name, version)
    rows = {part.fragment_id: part.metadata.num_rows for part in dataset.get_fragments()}
    found = [found for found in dataset.describe_indices() if found.field_names == [schema.VECTOR]]
    return {
        segment.uuid: sum(rows.get(fragment, 0) for fragment in segment.fragment_ids)
        for index in found
        for segment in index.segments
    }


def _index_type(dataset: lance.LanceDataset) -> str:
    """Type of the vector index."""
    kinds = (found.index_type for found in dataset.describe_indices() if found.field_names == [schema.VECTOR])
    return next(kinds, NO_INDEX)


def _index_metric(dataset: lance.LanceDataset) -> str | None:
    """Metric of the vector index, ``None`` where there is none or it has no centres."""
    names = (found.name for found in dataset.describe_indices() if found.field_names == [schema.VECTOR])
    segments = (segment for name in names for segment in dataset.stats.index_stats(name)["indices"])
    # Lance tells no metric of a segment that was built on too few rows to train on.
    return next((str(segment["metric_type"]) for segment in segments if "metric_type" in segment), None)


@dataclass(frozen=True)
class Recall:
    """Agreement of a vector index with exact search.

    Attributes:
        share: Mean share of the 10 nearest rows.
        probes: Partitions each query looked into.
    """

    share: float
    probes: int


def measure_recall(uri: str, name: str, version: int, metric: str, queries: int, wanted: float) -> Recall:
    """Measures a vector index against exact search, with stored vectors as queries.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        metric: Distance of the index.
        queries: Rows drawn at random as queries.
        wanted: Share to reach. Searched partitions are doubled until it is reached or all are searched.

    Returns:
        The last measurement.
    """
    drawn = exact_neighbours.draw(uri, name, version, queries)
    return agreement(uri, name, version, metric, drawn, exact_neighbours.nearest(uri, name, version, drawn), wanted)


def agreement(
    uri: str, name: str, version: int, metric: str, drawn: np.ndarray, exact: np.ndarray, wanted: float
) -> Recall:
    """Compares what a vector index finds with exact neighbours.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        metric: Distance of the index.
        drawn: The queries, float32, shape (n, width), unit vectors.
        exact: Cosines of their nearest rows, float32, shape (n, rows), largest first.
        wanted: Share to reach. Searched partitions are doubled until it is reached or all are searched.

    Returns:
        The last measurement.
    """
    dataset = open_version(uri, name, version)
    table = search_table(uri, name, version)
    partitions, kind = _partitions(dataset), _index_type(dataset)
    probes = min(DEFAULT_PROBES, partitions)
    while True:
        searches = (vector_query(table, query, metric, kind, probes) for query in drawn)
        found = [search.limit(NEAREST).select([schema.VECTOR, "_distance"]).to_arrow() for search in searches]
        hits = [
            int((to_matrix(rows[schema.VECTOR]) @ query >= best[-1] - TIE).sum())
            for query, rows, best in zip(drawn, found, exact, strict=True)
        ]
        share = sum(hits) / max(1, exact.size)
        if share >= wanted or probes >= partitions:
            return Recall(share, probes)
        probes = min(2 * probes, partitions)


def vector_query(
    table: "Table", vector: np.ndarray, metric: str, index: str, probes: int | None
) -> "LanceVectorQueryBuilder":
    """Query by vector, the same for the measurement of recall and for searches.

    Args:
        table: LanceDB table at a version.
        vector: float32, shape (width,).
        metric: Distance.
        index: Type of the vector index.
        probes: Partitions of the index to look into; ``None`` for exact search.

    Returns:
        The query, without limit and columns.
    """
    query = cast("LanceVectorQueryBuilder", table.search(vector)).distance_type(cast("Metric", metric))
    if probes is None:
        return query.bypass_vector_index()
    query = query.nprobes(probes)
    # Quantised vectors are too coarse to rank by. Measured on a million of 256 dimensions, scalar quantisation has a
    # recall of 0.94 without re-ranking and 0.99 with it; skipping it saves a millisecond.
    factor = REFINED.get(index[-2:])
    return query.refine_factor(factor) if factor else query


def _partitions(dataset: lance.LanceDataset) -> int:
    """Partitions of the vector index: the maximum over its segments."""
    (index_name,) = (found.name for found in dataset.describe_indices() if found.field_names == [schema.VECTOR])
    segments = dataset.stats.index_stats(index_name)["indices"]
    return max((int(segment.get("num_partitions", 1)) for segment in segments), default=1)
