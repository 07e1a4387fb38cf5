"""One trial: a query set searched in one table, with its latencies."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from indexer.evaluation.configurations import Configuration
from indexer.search import modes
from indexer.search.hits import Hit
from indexer.search.modes import SearchOptions
from indexer.search.snapshot import Snapshot

SHOWN = 10
"""Results of a timed search: a page of them."""


@dataclass(frozen=True)
class Latency:
    """How long a page of results takes.

    Attributes:
        p50: Median seconds of single queries, one after the other.
        p95: Likewise the 95th percentile.
        queries_per_second: With as many queries at once as there are cores.
    """

    p50: float
    p95: float
    queries_per_second: float


@dataclass(frozen=True)
class Trial:
    """A configuration with its tables.

    Attributes:
        configuration: The configuration.
        opened: Its tables as a reader has them.
        table_bytes: Bytes of its tables' data.
        index_bytes: Bytes of its vector and text indices.
    """

    configuration: Configuration
    opened: Snapshot
    table_bytes: int
    index_bytes: int

    def ranked(self, vectors: np.ndarray, queries: Sequence[str], depth: int, oversample: int) -> list[list[Hit]]:
        """Hits of each query: its ``depth`` best documents, each as its best chunk."""
        return [self._search(vectors[at : at + 1], query, depth, oversample, []) for at, query in enumerate(queries)]

    def timed(self, vectors: np.ndarray, queries: Sequence[str], oversample: int) -> Latency:
        """Times searches for a page of results with their payload."""

        def ask(at: int) -> float:
            start = time.perf_counter()
            self._search(vectors[at : at + 1], queries[at], SHOWN, oversample, None)
            return time.perf_counter() - start

        ask(0)
        seconds = [ask(at) for at in range(len(queries))]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            start = time.perf_counter()
            list(threads.map(ask, range(len(queries))))
            rate = len(queries) / (time.perf_counter() - start)
        p50, p95 = np.percentile(seconds, [50, 95])
        return Latency(float(p50), float(p95), rate)

    def _search(
        self, vector: np.ndarray, query: str, limit: int, oversample: int, columns: Sequence[str] | None
    ) -> list[Hit]:
        """The hits of one query, as the configuration searches."""
        chosen = self.configuration
        times = oversample if chosen.rescored else 1
        options = SearchOptions(mode=chosen.mode, width=chosen.width, oversample=times, columns=columns)
        return next(modes.find(self.opened, [query], vector, limit, options))
