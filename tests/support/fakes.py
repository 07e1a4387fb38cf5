"""Helpers of host-side tests: runs on the fake engine, written corpora, tables read back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.indexing import run as indexing_run
from indexer.indexing.job import Rebuild
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.model import open_model
from indexer.search import published
from indexer.settings import Settings
from indexer.testing.checkpoints import minilm_path
from indexer.testing.fakes import FakeModel
from tests.support.local_cluster import LocalCluster

WIDTHS = [384, 96]

POISON = "zebra"
"""A word of one token that :func:`words` never gives."""


def settings(root: Path, **sections: dict[str, Any]) -> Settings:
    """Settings of an index of ``root/corpus`` in ``root/index``, of several small shards."""
    base: dict[str, dict[str, Any]] = {
        "corpus": {"uri": str(root / "corpus"), "payload": ["kind"]},
        "model": {"name": minilm_path(), "max_tokens": 128},
        "index": {"uri": str(root / "index"), "widths": WIDTHS, "payload": "once"},
        "run": {"shard_mb": 0.01, "progress": "none"},
    }
    return Settings(**{name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}})


def model(given: Settings, **faults: Any) -> FakeModel:
    """The model of the settings with the fake engine."""
    return FakeModel.of(open_model(given.model, given.engine), **faults)


def run(given: Settings, *, cluster: Any = None, rebuild: Rebuild = False, **faults: Any) -> dict[str, Any]:
    """Indexes with the fake engine."""
    return indexing_run.run(given, model(given, **faults), cluster, rebuild=rebuild)


def run_here(given: Settings, **faults: Any) -> dict[str, Any]:
    """Indexes with the fake engine in this process, without Ray."""
    return run(given, cluster=LocalCluster(), **faults)


def write(path: Path, rows: Sequence[tuple[Any, Any]], rows_per_group: int = 50) -> None:
    """Writes (id, text) rows as a Parquet file with a payload column."""
    ids, texts = zip(*rows, strict=True) if rows else ((), ())
    table = pa.table({"id": list(ids), "text": list(texts), "kind": ["page"] * len(ids)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group)


def words(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Documents of a few words, all different."""
    return [(f"doc-{row:05d}", f"document {row} of seed {seed} speaks of {row * 7919 % 1000}") for row in range(count)]


def poison_token() -> int:
    """Token id of :data:`POISON`."""
    (ids,) = EmbedTokenizer(minilm_path(), max_tokens=128).documents([POISON]).ids.tolist()
    return ids[1]


def published_rows(given: Settings, width: int) -> list[tuple[str, int]]:
    """Keys of a published width table, sorted."""
    table = published.open_published(given.index.uri, given.index.name).read(width, ["id", "chunk"])
    return sorted(zip(table["id"].to_pylist(), table["chunk"].to_pylist(), strict=True))


def published_vectors(given: Settings, width: int) -> dict[str, np.ndarray]:
    """Vectors of a published width table by id."""
    table = published.open_published(given.index.uri, given.index.name).read(width, ["id", "vector"])
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    return dict(zip(table["id"].to_pylist(), vectors, strict=True))


def quarantine(given: Settings) -> list[tuple[str | None, str]]:
    """(id, reason) of the published quarantine, sorted."""
    table = published.open_published(given.index.uri, given.index.name).quarantine()
    return sorted(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True), key=str)
