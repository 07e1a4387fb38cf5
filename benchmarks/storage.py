"""Storage: time to load tables of several widths, time until they can be searched, recall of each index.

Loading is compared with plain writes of the same bytes to the same disk, and with lists of dicts added through LanceDB.
Vectors lie around random centres, so that there is something to find.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from benchmarks.support import machine, reporting
from indexer import schema
from indexer.inference import matryoshka
from indexer.schema import Layout
from indexer.storage import commits, tables, vector_index
from indexer.storage.commits import Change
from indexer.storage.vector_index import TableStats

WIDTHS = (1024, 512, 256, 128)

SEARCHED = 256

OTHER_WIDTHS = (64, 128, 512, 1024)

PART_ROWS = 50_000

SHARD_ROWS = 10_000

DICT_ROWS = 10_000

CENTRES = 2_000

QUERIES = 200

INDEX_TYPES = ("none", "IVF_FLAT", "IVF_SQ", "IVF_RQ", "IVF_PQ", "IVF_HNSW_SQ")


def vectors(rows: int, width: int, seed: int) -> np.ndarray:
    """Unit vectors around centres that are the same for every seed, float32, shape (rows, width)."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, width), np.float32)
    drawn = np.random.default_rng(seed)
    near = centres[drawn.integers(0, CENTRES, rows)] + 0.7 * drawn.standard_normal((rows, width), np.float32)
    return near / np.linalg.norm(near, axis=1, keepdims=True)


def rows_of(layout: Layout, full: np.ndarray, first: int) -> dict[str, pa.Table]:
    """A shard's rows of every width table."""
    count = len(full)
    keys = {
        schema.ID: pa.array([f"{row:012d}" for row in range(first, first + count)]),
        schema.CHUNK: pa.array(np.zeros(count, np.int32)),
        schema.CHAR_START: pa.array(np.zeros(count, np.int32)),
        schema.CHAR_END: pa.array(np.full(count, 500, np.int32)),
        schema.CONTENT_HASH: pa.array(
            [row.to_bytes(16, "little") for row in range(first, first + count)], pa.binary(16)
        ),
        schema.PAYLOAD_HASH: pa.array([row.to_bytes(8, "little") for row in range(first, first + count)], pa.binary(8)),
    }
    cut = matryoshka.columns(full, layout.widths, layout.precision)
    return {
        layout.table(width): pa.table(
            [keys.get(name, cut[width]) for name in layout.schema(width).names], schema=layout.schema(width)
        )
        for width in layout.widths
    }


def layout_of(wide: Sequence[int], precision: str) -> Layout:
    """Tables without payload."""
    return Layout("bench", 1, tuple(wide), precision, "cosine", pa.schema([]))


def load(uri: str, layout: Layout, parts: Sequence[dict[str, pa.Table]]) -> float:
    """Seconds to stage and commit the rows, until they are on the disk."""
    names = [layout.table(width) for width in layout.widths]
    tables.create_missing(uri, {layout.table(width): layout.schema(width) for width in layout.widths}, layout.name)
    start = time.perf_counter()
    staged: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for part in parts:
        for name, table in part.items():
            staged[name] += tables.stage(uri, name, table)
    for name in names:
        commits.commit(uri, name, Change(1, "", commits.NOTHING, staged[name], None, {}, layout.name))
    os.sync()
    return time.perf_counter() - start


def write_plainly(path: Path, parts: Sequence[dict[str, pa.Table]]) -> float:
    """Seconds to write the same bytes into one file, until they are on the disk."""
    start = time.perf_counter()
    with path.open("wb") as stream:
        for buffer in _buffers(parts):
            stream.write(buffer)
    os.sync()
    return time.perf_counter() - start


def _buffers(parts: Sequence[dict[str, pa.Table]]) -> Iterator[memoryview]:
    """Memory of all columns, without copies."""
    for part in parts:
        for table in part.values():
            for column in table.columns:
                for chunk in column.chunks:
                    yield from (memoryview(buffer) for buffer in chunk.buffers() if buffer is not None)


def add_dicts(uri: str, part: dict[str, pa.Table]) -> float:
    """Seconds to add rows as lists of dicts, as LanceDB's introduction does."""
    database = lancedb.connect(uri)
    rows = {name: table.slice(0, DICT_ROWS).to_pylist() for name, table in part.items()}
    made = {name: database.create_table(name, schema=part[name].schema) for name in rows}
    start = time.perf_counter()
    for name, table in made.items():
        table.add(rows[name])
    os.sync()
    return time.perf_counter() - start


def loading(root: Path, rows: int) -> dict[str, Any]:
    """Rates of loading four widths, and of both comparisons, medians of three rounds."""
    layout = layout_of(WIDTHS, "float32")
    shards = range(0, rows, SHARD_ROWS)
    parts = [rows_of(layout, vectors(SHARD_ROWS, WIDTHS[0], seed), seed) for seed in shards]
    written = sum(len(buffer) for buffer in _buffers(parts))
    rounds = []
    for number in range(3):
        plain = write_plainly(root / "plain", parts)
        (root / "plain").unlink()
        loaded = load(str(root / f"loaded-{number}"), layout, parts)
        dicts = add_dicts(str(root / f"dicts-{number}"), parts[0])
        rounds.append((loaded, plain, dicts))
    loaded, plain, dicts = np.median(np.array(rounds), axis=0).tolist()
    return {
        "rows": rows,
        "megabytes": round(written / 1e6),
        "rows_per_second": round(rows / loaded),
        "mb_per_second": round(written / 1e6 / loaded),
        "plain_mb_per_second": round(written / 1e6 / plain),
        "dict_rows_per_second": round(DICT_ROWS / dicts),
        "over_plain": round(plain / loaded, 3),
        "over_dicts": round((rows / loaded) / (DICT_ROWS / dicts), 1),
    }


@dataclass(frozen=True)
class Case:
    """A table to search: rows, width, precision of the vectors and type of the index."""

    rows: int
    width: int
    precision: str
    index: str


def cases(sizes: Sequence[int]) -> Iterator[Case]:
    """Every index type at every size; at the first size every width and precision too, exact and as the job indexes."""
    for rows in sizes:
        for kind in INDEX_TYPES:
            yield Case(rows, SEARCHED, "float32", kind)
    for kind in ("none", "IVF_SQ"):
        yield Case(sizes[0], SEARCHED, "float16", kind)
        for width in OTHER_WIDTHS:
            yield Case(sizes[0], width, "float32", kind)


def searching(root: Path, case: Case) -> dict[str, Any]:
    """Time until a table is loaded and indexed, then latency and recall of single queries."""
    layout = layout_of([case.width], case.precision)
    uri, name = str(root / "searched"), layout.table(case.width)
    queries = vectors(QUERIES, case.width, 10**9)
    parts, nearest = [], Nearest(queries)
    for first in range(0, case.rows, PART_ROWS):
        full = vectors(min(PART_ROWS, case.rows - first), case.width, first)
        nearest.add(full)
        parts.append(rows_of(layout, full, first))
    loaded = load(uri, layout, parts)
    start = time.perf_counter()
    vector_index.maintain(uri, name, case.index, "cosine")
    indexed = time.perf_counter() - start
    measured = vector_index.measure(uri, name)
    probes = 0
    if case.index != vector_index.NO_INDEX:
        probes = vector_index.measure_recall(uri, name, measured.version, "cosine", 100, 0.95).probes
    seconds, found = search(uri, measured, name, probes, queries)
    shutil.rmtree(uri)
    return {
        **asdict(case),
        "load_seconds": round(loaded, 2),
        "queryable_seconds": round(loaded + indexed, 2),
        "bytes": measured.bytes,
        "recall_at_10": round(nearest.recall(found), 4),
        "probes": probes,
        "p50_ms": round(1e3 * float(np.percentile(seconds, 50)), 2),
        "p95_ms": round(1e3 * float(np.percentile(seconds, 95)), 2),
    }


class Nearest:
    """The ten vectors nearest to each query, by NumPy in float32, whatever the table's precision."""

    def __init__(self, queries: np.ndarray) -> None:
        """Starts without vectors."""
        self._queries = queries
        self._rows = 0
        self._scores = np.empty((len(queries), 0), np.float32)
        self._ids = np.empty((len(queries), 0), np.int64)

    def add(self, full: np.ndarray) -> None:
        """Adds vectors, numbered from the last id on."""
        scores = np.concatenate([self._scores, self._queries @ full.T], axis=1)
        counted = np.broadcast_to(np.arange(self._rows, self._rows + len(full)), (len(scores), len(full)))
        ids = np.concatenate([self._ids, counted], axis=1)
        best = np.argpartition(-scores, 10, axis=1)[:, :10]
        self._scores, self._ids = np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)
        self._rows += len(full)

    def recall(self, found: Sequence[set[int]]) -> float:
        """Share of the ten nearest vectors that were found, over all queries."""
        return sum(len(set(ids) & hits) for ids, hits in zip(self._ids.tolist(), found, strict=True)) / self._ids.size


def search(
    uri: str, measured: TableStats, name: str, probes: int, queries: np.ndarray
) -> tuple[list[float], list[set[int]]]:
    """Seconds of each query without the first ones, and the ids found for each."""
    table = tables.search_table(uri, name, measured.version)
    seconds, found = [], []
    for query in queries:
        start = time.perf_counter()
        search = vector_index.vector_query(table, query, "cosine", measured.index, probes or None)
        hits = search.limit(10).select([schema.ID, "_distance"]).to_arrow()
        seconds.append(time.perf_counter() - start)
        found.append({int(name) for name in hits[schema.ID].to_pylist()})
    return seconds[QUERIES // 10 :], found


def main() -> None:
    """Measures, prints and writes."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--rows", type=int, default=100_000, help="rows to load into four tables")
    command.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000], help="rows of searched tables")
    command.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    arguments = command.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        loaded = loading(Path(folder), arguments.rows)
        print(json.dumps(loaded), flush=True)
        for case in cases(arguments.sizes):
            found.append(searching(Path(folder), case))
            print(json.dumps(found[-1]), flush=True)
    result = {"machine": machine.describe(), "loading": loaded, "searching": found}
    text = [
        f"{reporting.where(result)}. Loading {', '.join(map(str, WIDTHS))} dimensions:",
        "",
        *reporting.table([loaded]),
    ]
    text += ["", "Searching:", "", *reporting.table(found)]
    reporting.write(arguments.out, "storage", result, "\n".join(text) + "\n")
    if below := reporting.below_floors("storage", loaded):
        sys.exit("; ".join(below))


if __name__ == "__main__":
    main()
