"""The connection to Ray: the cluster we join, run in or start, and tasks on it."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import starmap
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from indexer.cluster.failures import cause, death
from indexer.cluster.placement import Placement
from indexer.cluster.pool import WorkerPool
from indexer.cluster.session import RaySession
from indexer.cluster.worker import MakePipeline
from indexer.errors import IndexerError
from indexer.settings import ClusterSettings

if TYPE_CHECKING:
    from indexer.cluster.together import Train

SMALL_BYTES = 8 << 20
"""Bytes below which the driver reads files itself: another process would take longer to start."""

SMALL_ROWS = 200_000
"""Rows below which the driver compares or maintains itself: measured 0.2 s here, 2.5 s in new processes."""


class Cluster:
    """A connection to Ray: the configured cluster, the one we run in, or one of our own that ends with it."""

    def __init__(self, settings: ClusterSettings, replicas_per_gpu: int = 1) -> None:
        """Describes the cluster; :meth:`__enter__` connects."""
        self._settings = settings
        self._replicas = replicas_per_gpu

    def __enter__(self) -> Self:
        """Joins the configured cluster or the one we run in; otherwise starts a Ray on loopback that ends with us."""
        self._session = RaySession(self._settings.address)
        try:
            self._session.open()
        except BaseException:
            self._session.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnects, which ends a Ray that we started."""
        self._session.close()

    @property
    def cores(self) -> int:
        """Cores of the cluster."""
        return int(ray.cluster_resources()["CPU"])

    @cached_property
    def _placement(self) -> Placement:
        """Where workers fit; whether they get GPUs is decided at the first use."""
        device = self._settings.device
        gpus = device == "gpu" or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1)
        return Placement(self._settings, self._replicas, gpus=gpus)

    @property
    def gpus(self) -> bool:
        """Whether workers have GPUs."""
        return self._placement.gpus

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
            items: Arguments, pulled as tasks end, so that memory does not limit their number.
            in_driver: Run in this process, for work that is shorter than the start of another process.

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

    def sent(self, value: Any) -> Any:
        """A large argument of several calls of :meth:`on_machine`, which travels to each machine once."""
        return ray.put(value)

    def on_machine(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function alone on a worker's machine: with a whole GPU, or all cores where workers have none.

        Args:
            function: Top-level function.
            arguments: Its arguments.

        Returns:
            The function's result.

        Raises:
            IndexerError: What the function raised, or its process died.
        """
        remote: Any = ray.remote(function)
        return _take_one({remote.options(**self._placement.machine).remote(*arguments)})

    def pool(self, make_pipeline: MakePipeline, most: int, *, whole: bool = False) -> WorkerPool:
        """Workers of one kind, which start when the pool is entered and end with it.

        Args:
            make_pipeline: Builds the pipeline in a worker's process.
            most: Cap on the workers: an engine without work is useless.
            whole: Whether a worker gets all cores of a machine without a GPU, for work that uses them together.
        """
        return WorkerPool(self._placement.with_whole_machines() if whole else self._placement, make_pipeline, most)

    def together(self, train: "Train", argument: Any, workers: int, folder: str, restarts: int) -> Iterator[bool]:
        """Workers that train one model together, as :func:`indexer.cluster.together.run_together` says.

        Raises:
            SettingsError: The machines have no room for so many at the same time.
        """
        from indexer.cluster.together import run_together  # noqa: PLC0415  # imports PyTorch

        return run_together(train, argument, self._placement.resources_of(workers), workers, folder, restarts)


def _take_one(waiting: set[Any]) -> Any:
    """Waits for one task, removes it from the waiting ones and returns its result."""
    ended, _ = ray.wait(list(waiting), num_returns=1)
    waiting.remove(ended[0])
    try:
        return ray.get(ended[0])
    except RayTaskError as error:
        raise cause(error) from None
    except RayError as error:  # Ray has retried the task itself
        raise IndexerError(f"the process of a task died: {death(error)}") from None
