"""Filters: the rows and the nearest rows that meet a condition, with an index of the column and without.

Every condition is met by few rows. Both ways must give the same.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.inference import matryoshka
from indexer.schema import Layout
from indexer.storage import filters, scalar_indices, tables, vector_index

WIDTH = 64

PART_ROWS = 100_000

ROUNDS = 9

PAYLOAD = pa.schema(
    [
        pa.field("user", pa.string()),
        pa.field("shop", pa.int32()),
        pa.field("price", pa.float64()),
        pa.field("at", pa.timestamp("us")),
        pa.field("tags", pa.list_(pa.string())),
    ]
)

SECONDS = 10**9

FILTERS: dict[str, dict[str, Any]] = {
    "user": {"user": ["user-12345", "user-70007"]},
    "shop": {"shop": 77},
    "price": {"price": (500.0, 500.05)},
    "at": {"at": ("2001-01-01", "2001-01-03")},
    "tags": {"tags": "tag-600"},
    "shop, price": {"shop": [77, 78], "price": (0.0, 200.0)},
}
"""Conditions that between a ten-thousandth and a five-hundredth of the rows meets."""


def parts(rows: int, layout: Layout) -> Iterator[pa.RecordBatch]:
    """Rows with drawn payloads and vectors."""
    for first in range(0, rows, PART_ROWS):
        drawn = np.random.default_rng(first)
        count = min(PART_ROWS, rows - first)
        names = pa.array([f"{row:09d}" for row in range(first, first + count)])
        tags = [[f"tag-{tag}" for tag in two] for two in drawn.integers(0, 1000, (count, 2)).tolist()]
        columns = {
            schema.ID: names,
            **{name: np.zeros(count, np.int32) for name in (schema.CHUNK, schema.CHAR_START, schema.CHAR_END)},
            "user": [f"user-{user}" for user in drawn.integers(0, 100_000, count).tolist()],
            "shop": drawn.integers(0, 900, count).astype(np.int32),
            "price": drawn.uniform(0, 1000, count),
            "at": pa.array(
                drawn.integers(0, SECONDS, count) * 1_000_000 + 978_307_200_000_000 // 2, pa.timestamp("us")
            ),
            "tags": tags,
            schema.CONTENT_HASH: pa.array([bytes(16)] * count, schema.CONTENT_HASH_TYPE),
            schema.PAYLOAD_HASH: pa.array([bytes(8)] * count, schema.PAYLOAD_HASH_TYPE),
            schema.VECTOR: matryoshka.fixed_size_list(
                matryoshka.cut(drawn.standard_normal((count, WIDTH), np.float32), WIDTH), "float32"
            ),
        }
        yield from pa.table(columns, schema=layout.schema(WIDTH)).to_batches()


def seconds(ask: Callable[[], Any]) -> tuple[float, Any]:
    """Median time of some calls after a first one, and their result."""
    found = ask()
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        ask()
        took.append(time.perf_counter() - start)
    return statistics.median(took), found


@dataclass(frozen=True)
class Question:
    """A condition, the rows that meet it, and the nearest of these.

    Attributes:
        dataset: The table, for the rows.
        table: The table, for the nearest.
        query: float32, shape (width,).
        where: The condition.
    """

    dataset: lance.LanceDataset
    table: Any
    query: np.ndarray
    where: str

    def rows(self) -> list[str]:
        """Ids of the rows."""
        found = self.dataset.scanner(columns=[schema.ID], filter=self.where).to_table()
        return sorted(found[schema.ID].to_pylist())

    def nearest(self) -> list[str]:
        """Ids of the ten nearest rows."""
        search = vector_index.vector_query(self.table, self.query, "cosine", "none", None)
        chosen = search.select([schema.ID, "_distance"]).where(self.where).limit(10)
        return [str(row[schema.ID]) for row in chosen.to_list()]


def measure(uri: str, name: str, version: int, query: np.ndarray) -> dict[str, tuple[float, float, Any]]:
    """For every condition the seconds to find its rows and its nearest rows, and both results."""
    dataset = tables.open_version(uri, name, version)
    table = tables.search_table(uri, name, version)
    found = {}
    for label, wanted in FILTERS.items():
        question = Question(dataset, table, query, str(filters.matches(wanted, dataset.schema)))
        scanning, rows = seconds(question.rows)
        searching, hits = seconds(question.nearest)
        found[label] = scanning, searching, (rows, hits)
    return found


def main() -> None:
    """Measures, and prints one JSON object."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--rows", type=int, default=1_000_000)
    rows = command.parse_args().rows
    layout = Layout("docs", 1, (WIDTH,), "float32", "cosine", PAYLOAD)
    name = layout.table(WIDTH)
    with tempfile.TemporaryDirectory() as uri:
        reader = pa.RecordBatchReader.from_batches(layout.schema(WIDTH), parts(rows, layout))
        dataset = lance.write_dataset(reader, tables.table_path(uri, name))
        plain = int(dataset.version)
        start = time.perf_counter()
        for column in PAYLOAD.names:
            scalar_indices.build(dataset, scalar_indices.spec(column))
        built = time.perf_counter() - start
        query = np.random.default_rng(7).standard_normal(WIDTH).astype(np.float32)
        query /= np.linalg.norm(query)
        without = measure(uri, name, plain, query)
        indexed = measure(uri, name, int(lance.dataset(tables.table_path(uri, name)).version), query)
        kinds = scalar_indices.built(lance.dataset(tables.table_path(uri, name)))
    for label, (*_, expected) in without.items():
        if indexed[label][2] != expected:
            raise SystemExit(f"{label}: other rows with an index than without")
    described = {
        label: {
            "rows": len(expected[0]),
            "scan_ms": [round(1000 * way[label][0], 2) for way in (without, indexed)],
            "search_ms": [round(1000 * way[label][1], 2) for way in (without, indexed)],
            "scan_ratio": round(scanning / indexed[label][0], 1),
            "search_ratio": round(searching / indexed[label][1], 1),
        }
        for label, (scanning, searching, expected) in without.items()
    }
    print(json.dumps({"rows": rows, "kinds": kinds, "build_seconds": round(built, 1), "filters": described}))


if __name__ == "__main__":
    main()
