"""Stands in for a Ray cluster in tests that do not test workers: one worker, in this process."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from typing import Any, Self

from indexer.cluster.held import GpuUse
from indexer.cluster.leases import Done
from indexer.cluster.starting import EngineStarts


class LocalCluster:
    """One core and one worker of this process."""

    workers = cores = 1
    gpus = False

    def map(self, function: Callable[..., Any], items: Iterable[Any], *, in_driver: bool = False) -> Iterator[Any]:  # noqa: ARG002
        return starmap(function, items)

    def pool(self, make_pipeline: Callable[[], Any], most: int, *, whole: bool = False) -> "LocalPool":  # noqa: ARG002
        return LocalPool(make_pipeline)


class LocalPool:
    """A pool of one worker that never dies or fails.

    Attributes:
        compile_seconds: Seconds that its engine seems to have compiled.
    """

    compile_seconds = 0.0

    size = ready = 1
    restarts = 0
    used = GpuUse()
    losses = ()

    def __init__(self, make_pipeline: Callable[[], Any]) -> None:
        self._make_pipeline = make_pipeline
        self.starts = EngineStarts(["here"], compile_seconds=self.compile_seconds)

    def __enter__(self) -> Self:
        self._pipeline = self._make_pipeline()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, pieces: Iterable[Any], retries: int, most_restarts: int) -> Iterator[Done[Any, Any]]:  # noqa: ARG002
        return (Done(piece, self._pipeline.run(piece), time.time(), "here") for piece in pieces)
