"""Indices built in parts: each part covers some fragments, and one commit makes all parts one index.

Lance writes a part where no version of the table refers to it, so that a killed build leaves files and no change.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lance
import numpy as np
from lance.commit import CommitConflictError
from lance.indices import IndicesBuilder
from lance.lance import indices

from indexer import schema
from indexer.errors import IndexerError, first_line
from indexer.storage import scalar_indices, search_indices, vector_index
from indexer.storage.index_spec import IndexSpec
from indexer.storage.search_indices import SearchIndices
from indexer.storage.tables import open_version, table_path

MOST_PARTS = 8
"""Most parts of an index. Every search asks all of them, and later nights add their own."""

PARTITION_ROWS = {"IVF_FLAT": 1 << 12, "IVF_RQ": 1 << 12, "IVF_SQ": 1 << 13, "IVF_PQ": 1 << 13}
"""Rows of a partition by index type, as Lance chooses them in one process."""

GRAPH_ROWS = 1 << 20
"""The same for types with a graph in every partition."""

MOST_PARTITIONS = 1 << 12

JOINED = "BTREE"
"""Kind of index whose parts become one, since a look-up of scattered values reads nearly all pages of every part."""

SAMPLE_RATE = 256
"""Rows per centre that training reads."""


def fragment_ranges(uri: str, name: str, version: int, most: int = MOST_PARTS) -> list[list[int]]:
    """Ids of a table's fragments in ranges of about the same number, at most so many."""
    fragments = [part.fragment_id for part in open_version(uri, name, version).get_fragments()]
    ranges = np.array_split(np.array(fragments), max(1, min(most, len(fragments))))
    return [found.tolist() for found in ranges]


def missing(
    uri: str, name: str, kind: str, metric: str, trained_rows: int | None, wanted: SearchIndices
) -> tuple[int, list[IndexSpec]]:
    """Indices that the latest version of a table lacks, or has otherwise.

    Args:
        uri: LanceDB database.
        name: Table name.
        kind: Type of the vector index, or ``none``.
        metric: Distance of the vector index.
        trained_rows: Rows the vector index was last trained on.
        wanted: Full-text and filter indices.

    Returns:
        The version, and the indices, each for :func:`complete`.
    """
    dataset = lance.dataset(table_path(uri, name))
    specs = search_indices.missing(dataset, wanted)
    if vector_index.must_train(dataset, kind, metric, trained_rows):
        specs.append(IndexSpec(vector_index.NAME, schema.VECTOR, kind, {"metric": metric}))
    return int(dataset.version), specs


def complete(uri: str, name: str, version: int, spec: IndexSpec) -> IndexSpec:
    """Decides what all parts of an index share: the kind that suits the values, or the centres of its partitions.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        spec: One of the missing indices.

    Returns:
        The index for :func:`build`; it can be pickled.

    Raises:
        IndexerError: The column cannot be read, or the index not trained.
    """
    with _errors(name, spec):
        dataset = open_version(uri, name, version)
        if spec.column == schema.VECTOR:
            return _trained(dataset, spec)
        return spec if spec.kind else replace(spec, kind=scalar_indices.choose_kind(dataset, spec.column))


def build(uri: str, name: str, version: int, spec: IndexSpec, fragments: Sequence[int]) -> tuple[str, Any]:
    """Builds one part.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Its version.
        spec: The index, complete.
        fragments: Ids of the fragments that the part covers.

    Returns:
        The index's name, and Lance's description of the part, for :func:`commit`; both can be pickled.

    Raises:
        IndexerError: It cannot be built.
    """
    with _errors(name, spec):
        dataset = open_version(uri, name, version)
        return spec.name, dataset.create_index_uncommitted(
            spec.column, str(spec.kind), name=spec.name, replace=True, fragment_ids=list(fragments), **spec.parameters
        )


def commit(uri: str, name: str, version: int, spec: IndexSpec, parts: Sequence[Any]) -> None:
    """Makes the parts the table's index in one commit; they replace the index of that name.

    Parts of a B-tree are merged first, which streams their pages.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Version that the parts were built of, or a later one that only got other indices.
        spec: The index.
        parts: What :func:`build` gave for all fragments.

    Raises:
        IndexerError: Another process changed the rows or built the same index since.
    """
    with _errors(name, spec):
        dataset, segments = open_version(uri, name, version), list(parts)
        if spec.kind == JOINED and len(segments) > 1:
            segments = [dataset.merge_existing_index_segments(segments)]
        dataset.commit_existing_index_segments(spec.name, spec.column, segments)


@contextmanager
def _errors(name: str, spec: IndexSpec) -> Iterator[None]:
    """Lance's errors as ours."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, CommitConflictError) as error:
        raise IndexerError(f"cannot build index {spec.name} of table {name}: {first_line(error)}") from None


def _trained(dataset: lance.LanceDataset, spec: IndexSpec) -> IndexSpec:
    """The vector index with centres, codebook and rotation, trained on a sample of all rows."""
    count, kind, metric = dataset.count_rows(), str(spec.kind), spec.parameters["metric"]
    partitions = min(max(1, count // PARTITION_ROWS.get(kind, GRAPH_ROWS)), MOST_PARTITIONS)
    builder = IndicesBuilder(dataset, schema.VECTOR)
    trained = builder.train_ivf(partitions, distance_type=metric, sample_rate=min(SAMPLE_RATE, count // partitions))
    parameters: dict[str, Any] = {"num_partitions": partitions, "ivf_centroids": trained.centroids}
    config = vector_index.configuration(kind, metric)
    # With parts of their own rotations or codebooks, no later maintenance could join them.
    if kind.endswith("PQ"):
        codebook = builder.train_pq(trained, sample_rate=min(SAMPLE_RATE, count // vector_index.PQ_CENTRES))
        parameters |= {"pq_codebook": codebook.codebook, "num_sub_vectors": codebook.num_subvectors}
    if kind.endswith("RQ"):
        model = indices.build_rq_model(dimension=builder.dimension, num_bits=config.num_bits)
        parameters |= {"rabitq_model": model, "num_bits": config.num_bits}
    if "HNSW" in kind:
        parameters |= {"m": config.m, "ef_construction": config.ef_construction}
    return replace(spec, parameters={**spec.parameters, **parameters})
