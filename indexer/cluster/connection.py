"""Ray: the cluster we run in or start, the worker actors, leases, retries. The only door to Ray."""

import logging
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import starmap
from typing import Any, Self

import ray
from ray._private import ray_constants
from ray.exceptions import RayError, RayTaskError

from indexer.cluster.pipeline import PIECES_INSIDE, Piece, PieceT
from indexer.cluster.pool import DESERTED_SECONDS, STOP_SECONDS, GivenUp, Lease, WorkerHandle, _asked_to_stop, _fail
from indexer.cluster.worker import MakePipeline, Worker
from indexer.errors import CorpusError, IndexerError, SettingsError, first_line
from indexer.progress import say
from indexer.settings import ClusterSettings

SMALL_BYTES = 8 << 20
"""Files of which less is to be read are read in the driver: a process to do it elsewhere takes longer to start."""

SMALL_ROWS = 200_000
"""Likewise rows to compare or to tend: measured, 0.2 s here instead of 2.5 s in new processes."""

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
        self._members: list[WorkerHandle] = []
        self.restarts = 0

    def __enter__(self) -> Self:
        """Connects, or starts a local Ray on loopback."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with _our_sigterm(), warnings.catch_warnings():
            # Lance warns of every fork; Ray's are followed by an exec, which leaves nothing of Lance behind.
            warnings.simplefilter("ignore")
            self._connect({"logging_level": logging.ERROR, "log_to_driver": False})
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the workers, and Ray where we started it."""
        self.stop_workers()
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
    def gpus(self) -> int:
        """GPUs of the cluster when it was first asked: losing them must not make workers that want none."""
        return int(ray.cluster_resources().get("GPU", 0))

    @property
    def workers(self) -> int:
        """Engines a run starts."""
        return self.capacity if self._settings.workers == "auto" else self._settings.workers

    @property
    def capacity(self) -> int:
        """Engines that the cluster's machines can hold: one per GPU (times the replicas), and cores for each."""
        room = 0
        for machine in (node["Resources"] for node in ray.nodes() if node["Alive"]):
            cores = int(machine.get("CPU", 0)) // self._settings.cpus_per_worker
            room += min(cores, int(machine.get("GPU", 0)) * self._replicas) if self.gpus else cores
        return room

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
        room = 2 * self.cores
        for arguments in items:
            waiting.add(remote.remote(*arguments))
            if len(waiting) >= room:
                yield _take_one(waiting)
        while waiting:
            yield _take_one(waiting)

    def start_workers(self, make_pipeline: MakePipeline, most: int) -> int:
        """Starts the engines and waits until they are ready.

        Args:
            make_pipeline: Builds the pipeline in the worker process.
            most: No more workers than this: there is no use for an engine without work.

        Returns:
            Workers started.

        Raises:
            SettingsError: The cluster has no room for so many workers.
            IndexerError: An engine cannot be started.
        """
        self._make_pipeline = make_pipeline
        wanted = min(max(self.workers, 1), most)
        if wanted > self.capacity:  # Ray would wait for ever
            raise SettingsError(
                f"cluster.workers: the machines of this cluster have room for {self.capacity} workers of "
                f"{self._settings.cpus_per_worker} cores, not for {wanted}"
            )
        self._members = [self._start_worker() for _ in range(wanted)]
        for member in self._members:
            try:
                ray.get(member.starting)
            except RayTaskError as error:
                raise _cause(error) from None
            except RayError as error:
                raise IndexerError(f"a worker died while its engine started: {_death(error)}") from None
            member.ready = True
        return len(self._members)

    def stop_workers(self) -> None:
        """Ends the worker processes and with them their engines."""
        for member in self._members:
            ray.kill(member.actor)
        self._members = []

    def run(self, pieces: Iterable[PieceT], retries: int, most_restarts: int) -> Iterator[Any | GivenUp[PieceT]]:
        """Takes pieces of work to receipts on the started workers.

        What a worker held when it died is halved, each half runs alone, and so on: of n documents, one that kills is
        found with 1 + log2(n) deaths. What cannot be halved is given up after ``retries`` more. A dead worker's
        replacement takes part once its engine has started: where a machine is lost, the others do its work. On SIGTERM
        or Ctrl-C the pieces in hand are finished and nothing else is begun; a second signal ends at once.

        Args:
            pieces: Work, pulled as workers have room.
            retries: Further tries of a piece that failed.
            most_restarts: Workers that may die.

        Yields:
            What the pipeline returned, and given-up pieces, in the order in which they end.

        Raises:
            IndexerError: Too many workers died, no machine is left for any, or a piece failed for a reason that is not
                its own.
            KeyboardInterrupt: A signal asked to stop.
        """
        fresh: Iterator[Piece] = iter(pieces)
        queue: deque[Lease] = deque()
        self.restarts = 0
        self._last_room = time.monotonic()
        with _asked_to_stop() as asked:
            while True:
                if not asked.is_set():
                    self._lease(queue, fresh)
                leased = {reference: member for member in self._members for reference in member.leases}
                if not leased and (asked.is_set() or not queue):
                    break
                references = leased | {member.starting: member for member in self._members if not member.ready}
                ended, _ = ray.wait(list(references), num_returns=1, timeout=STOP_SECONDS)
                for reference in ended:
                    yield from self._settle(references[reference], reference, queue, retries)
                if not leased:
                    self._check_room()
                if self.restarts > most_restarts:
                    raise IndexerError(f"{self.restarts} workers died, run.max_restarts allows {most_restarts}")
        if asked.is_set():
            raise KeyboardInterrupt

    def _lease(self, queue: deque[Lease], fresh: Iterator[Piece]) -> None:
        """Gives each worker in turn one more piece until none has room or nothing is left."""
        given = True
        while given:
            given = False
            for member in sorted(self._members, key=lambda member: len(member.leases)):
                if not queue and (piece := next(fresh, None)) is not None:
                    queue.append(Lease(piece))
                if queue and member.takes(queue[0]):
                    lease = queue.popleft()
                    member.leases[member.actor.run.remote(lease.piece)] = lease
                    given = True

    def _check_room(self) -> None:
        """Ends a run that nobody works on and no machine of the cluster could."""
        if self.capacity:
            self._last_room = time.monotonic()
        elif time.monotonic() - self._last_room > DESERTED_SECONDS:
            raise IndexerError(
                f"the machines of all workers are lost, and no other came in {DESERTED_SECONDS:.0f} seconds; the same "
                "command resumes"
            )

    def _settle(self, member: WorkerHandle, reference: Any, queue: deque[Lease], retries: int) -> Iterator[Any]:
        try:
            receipt = ray.get(reference)
        except RayTaskError as error:
            cause = _cause(error)
            if not member.ready or not isinstance(cause, CorpusError):
                raise cause from None
            lease = member.leases.pop(reference)
            yield from _fail(lease, queue, retries, str(cause))
        except RayError as error:
            yield from self._replace_dead(member, queue, retries, f"worker died: {_death(error)}")
        else:
            if member.ready:
                del member.leases[reference]
                yield receipt
            member.ready = True

    def _replace_dead(
        self, member: WorkerHandle, queue: deque[Lease], retries: int, reason: str
    ) -> Iterator[GivenUp[Any]]:
        """Replaces a dead worker; what it held is halved, and its only piece, where it has no halves, is to blame."""
        alone = len(member.leases) == 1
        for lease in member.leases.values():
            lease.suspect = True
            halves = lease.piece.halves()
            if halves:
                queue.extend(Lease(half, suspect=True) for half in halves)
            elif alone:
                yield from _fail(lease, queue, retries, reason)
            else:
                queue.append(lease)
        say(f"{reason}; another one is started")
        ray.kill(member.actor)  # Ray may only have lost sight of it, and it holds a GPU
        self.restarts += 1
        self._members.remove(member)
        self._members.append(self._start_worker())

    def _start_worker(self) -> WorkerHandle:
        options: dict[str, Any] = {"num_cpus": self._settings.cpus_per_worker}
        if self.gpus:
            options["num_gpus"] = 1 / self._replicas
        cores = 0 if self.gpus else self._settings.cpus_per_worker
        actor: Any = ray.remote(Worker).options(max_concurrency=PIECES_INSIDE, **options).remote(cores)
        return WorkerHandle(actor, actor.start.remote(self._make_pipeline))


def _take_one(waiting: set[Any]) -> Any:
    ended, _ = ray.wait(list(waiting), num_returns=1)
    waiting.remove(ended[0])
    try:
        return ray.get(ended[0])
    except RayTaskError as error:
        raise _cause(error) from None
    except RayError as error:  # Ray has tried again by itself
        raise IndexerError(f"the process of a task died: {_death(error)}") from None


def _death(error: RayError) -> str:
    """Why a process died, as far as Ray knows: the sentence that says so in its report."""
    lines = (line for line in str(error).splitlines() if line.startswith("The actor is dead because"))
    return next(lines, first_line(error)).split(". ")[0].rstrip(".")


def _cause(error: RayTaskError) -> Exception:
    """Our own errors as they were raised; of others the type and first line, without Ray's remote traceback."""
    if isinstance(error.cause, IndexerError):
        return error.cause
    return IndexerError(f"{type(error.cause).__name__}: {first_line(error.cause)}")


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
