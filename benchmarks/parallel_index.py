"""The indices of one large table, built by one process and in parts over Ray: seconds, recall and latency of both.

The table has vectors around random centres and no payload; ids, content hashes and vectors get their indices. Both ways
begin with the same staged fragments and with processes that run already. The gate's recall is of stored vectors, the
other one of queries that are not in the table, against NumPy.
"""

import argparse
import json
import shutil
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.storage import PART_ROWS, QUERIES, SHARD_ROWS, Nearest, layout_of, load, rows_of, search, vectors
from benchmarks.support import machine, reporting
from indexer.cluster.connection import Cluster
from indexer.publishing import parallel
from indexer.settings import ClusterSettings, GateSettings
from indexer.storage import tables, vector_index
from indexer.storage.search_indices import SearchIndices

METRIC = "cosine"

WANTED = SearchIndices(contents=True)


def write(uri: str, rows: int, width: int) -> tuple[str, Nearest]:
    """Writes the table as a run stages it; returns its name and the neighbours of queries outside it."""
    layout = layout_of([width], "float32")
    queries = Nearest(vectors(QUERIES, width, 10**9))
    parts = []
    for first in range(0, rows, PART_ROWS):
        full = vectors(min(PART_ROWS, rows - first), width, first)
        queries.add(full)
        shards = range(0, len(full), SHARD_ROWS)
        parts += [rows_of(layout, full[at : at + SHARD_ROWS], first + at) for at in shards]
    load(uri, layout, parts)
    return layout.table(width), queries


def built(cluster: Cluster, uri: str, name: str, kind: str, *, in_parts: bool) -> dict[str, Any]:
    """Builds the indices one way, measures the recall that way, and returns the seconds of both."""
    each, gates = cluster.map, GateSettings()
    start = time.perf_counter()
    if in_parts:
        parallel.build_parts(uri, name, kind, METRIC, None, WANTED, each)
    list(each(vector_index.maintain, [(uri, name, kind, METRIC, None, WANTED)]))
    indexed = time.perf_counter()
    measured = vector_index.measure(uri, name)
    if in_parts:
        recall = parallel.measure_recall(uri, name, measured.version, METRIC, gates, each)
    else:
        how = (uri, name, measured.version, METRIC, gates.recall_queries, gates.recall)
        (recall,) = each(vector_index.measure_recall, [how])
    dataset = tables.open_version(uri, name, measured.version)
    return {
        "built": "in parts" if in_parts else "by one process",
        "parts": max(len(found.segments) for found in dataset.describe_indices()),
        "build_seconds": round(indexed - start, 2),
        "gate_seconds": round(time.perf_counter() - indexed, 2),
        "gate_recall": round(recall.share, 4),
        "probes": recall.probes,
        "unindexed_rows": measured.unindexed,
    }


def searched(uri: str, name: str, probes: int, width: int, queries: Nearest) -> dict[str, Any]:
    """Recall and latency of single queries."""
    seconds, found = search(uri, vector_index.measure(uri, name), name, probes, vectors(QUERIES, width, 10**9))
    return {
        "recall_at_10": round(queries.recall(found), 4),
        "p50_ms": round(1e3 * float(np.percentile(seconds, 50)), 2),
    }


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    command.add_argument("--width", type=int, default=256, help="components of a vector")
    command.add_argument("--index", default="IVF_SQ", help="type of the vector index")
    given = command.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder, Cluster(ClusterSettings(address="local")) as cluster:
        first, second = f"{folder}/one", f"{folder}/parts"
        name, queries = write(first, given.rows, given.width)
        shutil.copytree(first, second)
        # Processes start, and import LanceDB, before anything is measured.
        list(cluster.map(vector_index.configuration, [(given.index, METRIC)] * (4 * cluster.cores)))
        for uri, in_parts in ((first, False), (second, True)):
            row = built(cluster, uri, name, given.index, in_parts=in_parts)
            found.append(row | searched(uri, name, row["probes"], given.width, queries))
            print(json.dumps(found[-1]), flush=True)
        cores = cluster.cores
    where = reporting.where({"machine": machine.describe()})
    print(f"{where}. {given.index} of {given.rows:,} x {given.width}, Ray on {cores} cores:", "", sep="\n")
    print(*reporting.table(found), sep="\n")


if __name__ == "__main__":
    main()
