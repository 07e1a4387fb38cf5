"""Many queries against one table: one after the other, as before, and together.

``python -m benchmarks.search --rows 1000000 --width 256 --queries 1000`` makes a table of clustered vectors with a text
of a few hundred characters, gives it the index that such a table gets, and prints queries/s as JSON. Nothing is
embedded: the queries are vectors near rows.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.inference import matryoshka
from indexer.search.hits import DISTANCE, make_hit, shown_columns
from indexer.search.snapshot import Snapshot
from indexer.storage import scratch, tables, vector_index
from indexer.storage.description import Counts, Description, LayoutRecord, ModelRecord, RunTotals
from indexer.storage.records import Epoch, TableState
from indexer.storage.vector_index import NO_INDEX

NAME = "benchmark_d"

BATCH = 50_000

CLUSTERS = 2_000

SPREAD = 0.6
"""Length of the noise around a cluster's centre."""

PAYLOAD = pa.schema([pa.field("text", pa.string()), pa.field("kind", pa.string())])


def vectors(rows: int, width: int, seed: int) -> np.ndarray:
    """Unit vectors around common centres, float32, shape (rows, width)."""
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, width), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    drawn = np.random.default_rng(seed)
    noise = drawn.standard_normal((rows, width), np.float32) * np.float32(SPREAD / width**0.5)
    return matryoshka.cut(centres[drawn.integers(CLUSTERS, size=rows)] + noise, width)


def _batches(rows: int, width: int) -> Iterator[pa.RecordBatch]:
    target = schema.width_schema(width, "float32", PAYLOAD)
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        numbers = range(start, start + count)
        values = {
            schema.ID: pa.array([f"doc-{number:09d}" for number in numbers]),
            schema.CHUNK: pa.array(np.zeros(count, np.int32)),
            schema.CHAR_START: pa.array(np.zeros(count, np.int32)),
            schema.CHAR_END: pa.array(np.full(count, 300, np.int32)),
            schema.CONTENT_HASH: pa.array([number.to_bytes(16) for number in numbers], schema.CONTENT_HASH_TYPE),
            schema.PAYLOAD_HASH: pa.array([number.to_bytes(8) for number in numbers], schema.PAYLOAD_HASH_TYPE),
            "text": pa.array([f"document {number} " * 20 for number in numbers]),
            "kind": pa.array(["even" if number % 2 == 0 else "odd" for number in numbers]),
            schema.VECTOR: matryoshka.fixed_size_list(vectors(count, width, 1 + start), "float32"),
        }
        yield pa.RecordBatch.from_arrays([values[name] for name in target.names], schema=target)


def make(uri: str, rows: int, width: int, index: str) -> Snapshot:
    """A table outside every index, as one epoch of it would be."""
    name = f"{NAME}{width}"
    scratch.write(uri, name, schema.width_schema(width, "float32", PAYLOAD), _batches(rows, width))
    probes = None
    version = 1
    if index != NO_INDEX:
        version = scratch.build_vector_index(uri, name, index, "cosine")
        probes = vector_index.measure_recall(uri, name, version, "cosine", 100, 0.95).probes
    state = TableState(
        name=name, width=width, version=version, rows=rows, bytes=0, index=index, probes=probes, trained_rows=rows
    )
    return Snapshot(uri, _epoch(state))


def _epoch(state: TableState) -> Epoch:
    """A record for the table."""
    layout = LayoutRecord(widths=[state.width], precision="float32", metric="cosine", payload={})
    model: dict[str, Any] = {"dimension": state.width, "max_tokens": 512, "chunk_overlap": 0, "overflow": "truncate"}
    texts = dict.fromkeys(("name", "dtype", "query_instruction", "query_template"), "")
    description = Description(
        fingerprint={},
        layout=layout,
        corpus="",
        text_columns=["text"],
        model=ModelRecord(**model, **texts, revision=None, sha256={}),
        to_retry=0,
        counts=Counts(**dict.fromkeys(set(Counts.model_fields), 0)),
        gates={},
        run=RunTotals(**dict.fromkeys(set(RunTotals.model_fields), 0)),
    )
    return Epoch(number=1, generation=1, published="", tables=[state], quarantine=("", 0), description=description)


def one_by_one(snapshot: Snapshot, queries: np.ndarray, k: int, *, reopened: bool) -> list[list[str]]:
    """As it was: one query after the other with every column; the table opened once, or for each query."""
    state = snapshot.state()
    table = tables.search_table(snapshot.uri, state.name, state.version)
    found = []
    for query in queries:
        if reopened:
            table = tables.search_table(snapshot.uri, state.name, state.version)
        columns = [schema.ID, schema.CHUNK, *shown_columns(table.schema.names), DISTANCE]
        asked = vector_index.vector_query(table, query, "cosine", state.index, state.probes).select(columns).limit(k)
        found.append([make_hit(row, "cosine", skip_empty=True).id for row in asked.to_list()])
    return found


def together(snapshot: Snapshot, queries: np.ndarray, k: int, columns: Sequence[str] | None) -> list[list[str]]:
    """All in one call."""
    return [[hit.id for hit in hits] for hits in snapshot.nearest(queries, k, columns=columns)]


def _rate(answer: Callable[[], list[list[str]]]) -> tuple[float, list[list[str]]]:
    began = time.perf_counter()
    found = answer()
    return round(len(found) / (time.perf_counter() - began), 1), found


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--rows", type=int, default=1_000_000)
    command.add_argument("--width", type=int, default=256)
    command.add_argument("--queries", type=int, default=1_000)
    command.add_argument("--alone", type=int, default=200, help="queries of the ways that search one by one")
    command.add_argument("--k", type=int, default=10)
    command.add_argument("--index", default="IVF_SQ", help="index type, or none for exact search")
    command.add_argument("--folder", help="where the table goes (default: a temporary folder)")
    arguments = command.parse_args()
    load = os.getloadavg()[0]
    asked, k = vectors(arguments.queries, arguments.width, 0), arguments.k
    with tempfile.TemporaryDirectory() as folder:
        snapshot = make(arguments.folder or folder, arguments.rows, arguments.width, arguments.index)
        together(snapshot, asked[:50], k, None)
        rates, answers = {}, {}
        some = asked[: arguments.alone]
        ways: dict[str, Callable[[], list[list[str]]]] = {
            "a call per query, as before": lambda: one_by_one(snapshot, some, k, reopened=True),
            "one call, as before": lambda: one_by_one(snapshot, some, k, reopened=False),
            "one call": lambda: together(snapshot, asked, k, None),
            "one call, ids only": lambda: together(snapshot, asked, k, []),
        }
        for name, answer in ways.items():
            rates[name], answers[name] = _rate(answer)
    first = next(iter(answers.values()))
    same = {name: sum(map(list.__eq__, first, found)) / len(first) for name, found in answers.items()}
    print(
        json.dumps(
            {
                "rows": arguments.rows,
                "width": arguments.width,
                "queries": arguments.queries,
                "k": k,
                "index": arguments.index,
                "probes": snapshot.state().probes,
                "cores": len(os.sched_getaffinity(0)),
                "load_before": round(load, 1),
                "queries_per_second": rates,
                "equal_answers": same,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
