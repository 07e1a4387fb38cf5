"""The connection to Ray: the cluster we join, run in or start, and tasks on it."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import starmap
from typing import Any, Self

import ray
from ray._private import ray_constants
from ray.exceptions import RayError, RayTaskError

from indexer.cluster.failures import cause, death
from indexer.cluster.placement import Placement
from indexer.cluster.pool import WorkerPool
from indexer.cluster.worker import MakePipeline
from indexer.errors import IndexerError, first_line
from indexer.progress import say
from indexer.settings import ClusterSettings

SMALL_BYTES = 8 << 20
"""Files of which less is to be read are read in the driver: a process to do it elsewhere takes longer to start."""

SMALL_ROWS = 200_000
"""Likewise rows to compare or to maintain: 0.2 s here were measured, and 2.5 s in new processes."""

OBJECT_STORE_BYTES = 256 << 20
"""Shared memory of a Ray we start: only descriptions of work and receipts travel, never documents or vectors."""

LOCAL = "local"
"""Address that always starts a Ray of our own."""


class Cluster:
    """A connection to Ray: the cluster given, the one we run in, or one of our own that ends with the connection."""

    def __init__(self, settings: ClusterSettings, replicas_per_gpu: int = 1) -> None:
        """Describes the cluster; :meth:`__enter__` connects."""
        self._settings = settings
        self._replicas = replicas_per_gpu

    def __enter__(self) -> Self:
        """Connects, or starts a local Ray on loopback."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with _our_sigterm(), warnings.catch_warnings():
            # Lance warns of every fork; Ray's are followed by an exec, which leaves nothing of Lance behind.
            warnings.simplefilter("ignore")
            self._connect({"logging_level": logging.ERROR, "log_to_driver": False})
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnects, which ends a Ray that we started."""
        ray.shutdown()

    def _connect(self, quiet: dict[str, Any]) -> None:
        given = self._settings.address or os.environ.get("RAY_ADDRESS") or "auto"
        try:
            if given != LOCAL:
                ray.init(address=given, **quiet)
                _warn_of_open_cluster()
                return
        except (ConnectionError, RuntimeError) as error:
            if given != "auto":
                raise IndexerError(f"no Ray cluster can be joined at {given}: {first_line(error)}") from None
        with _on_loopback():
            ray.init(
                address=LOCAL,
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )

    @property
    def cores(self) -> int:
        """Cores of the cluster."""
        return int(ray.cluster_resources()["CPU"])

    @cached_property
    def _placement(self) -> Placement:
        return Placement(self._settings, self._replicas, gpus=ray.cluster_resources().get("GPU", 0) >= 1)

    @property
    def workers(self) -> int:
        """Engines a run starts."""
        return self._placement.workers

    def map(
        self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]], *, in_driver: bool = False
    ) -> Iterator[Any]:
        """Runs ``function`` on every tuple of arguments as Ray tasks of one core.

        Args:
            function: Top-level function.
            items: Arguments; pulled as tasks end, so that any number fits.
            in_driver: Run in this process: for work that takes less than starting another one.

        Yields:
            Results in the order in which they are ready.

        Raises:
            IndexerError: What the function raised.
        """
        if in_driver:
            yield from starmap(function, items)
            return
        remote = ray.remote(num_cpus=1)(function)
        waiting: set[Any] = set()
        most = 2 * self.cores
        for arguments in items:
            waiting.add(remote.remote(*arguments))
            if len(waiting) >= most:
                yield _take_one(waiting)
        while waiting:
            yield _take_one(waiting)

    def pool(self, make_pipeline: MakePipeline, most: int) -> WorkerPool:
        """Workers of one kind, which start when the pool is entered and end with it.

        Args:
            make_pipeline: Builds the pipeline in a worker's process.
            most: No more workers than this: there is no use for an engine without work.
        """
        return WorkerPool(self._placement, make_pipeline, most)


def _take_one(waiting: set[Any]) -> Any:
    ended, _ = ray.wait(list(waiting), num_returns=1)
    waiting.remove(ended[0])
    try:
        return ray.get(ended[0])
    except RayTaskError as error:
        raise cause(error) from None
    except RayError as error:  # Ray has tried again by itself
        raise IndexerError(f"the process of a task died: {death(error)}") from None


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """Keeps the command's own answer to SIGTERM, which Ray replaces with an exit of its own."""
    ours = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray started in this block listens on loopback only.

    Ray takes the machine's own address whatever ``ray.init`` is told (2.60 replaces 127.0.0.1 by it), except where this
    constant says that the machine is no part of a cluster, as on desktops; processes it starts read the variable.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def _warn_of_open_cluster() -> None:
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        say("warning: this Ray cluster is joined without RAY_AUTH_MODE=token: who reaches its ports can run code on it")
