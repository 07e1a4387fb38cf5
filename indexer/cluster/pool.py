"""The worker pool: leases of work, bisection of what kills a worker, replacement of dead workers."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from indexer.cluster.failures import cause, death
from indexer.cluster.leases import Done, GivenUp, Lease, WorkerHandle
from indexer.cluster.pipeline import Piece, PieceT
from indexer.cluster.placement import Placement
from indexer.cluster.starting import Starting
from indexer.cluster.stopping import asked_to_stop
from indexer.cluster.worker import MakePipeline
from indexer.errors import CorpusError, IndexerError
from indexer.progress import say

STOP_SECONDS = 1.0
"""How soon a signal to stop is seen while workers work."""

DESERTED_SECONDS = 600.0
"""How long a run whose machines are all lost waits for others, which managed clusters start in minutes."""


class WorkerPool:
    """Workers with one engine each, which start when the pool is entered and end with it.

    Attributes:
        size: Workers of the pool.
        restarts: Workers that died in the latest :meth:`run` and were replaced.
    """

    def __init__(self, placement: Placement, make_pipeline: MakePipeline, most: int) -> None:
        """Describes the workers; :meth:`__enter__` starts them.

        Args:
            placement: Where workers fit.
            make_pipeline: Builds the pipeline in a worker's process.
            most: No more workers than this: there is no use for an engine without work.
        """
        self._placement = placement
        self._starting = Starting(placement, make_pipeline)
        self._most = most
        self._members: list[WorkerHandle] = []
        self.size = 0
        self.restarts = 0

    def __enter__(self) -> Self:
        """Starts the engines and waits until the first one is ready; the others take part when they are.

        Raises:
            SettingsError: The cluster has no place for so many workers.
            IndexerError: No engine can be started.
        """
        self.size = self._placement.choose(self._most)
        try:
            for _ in range(self.size):
                self._starting.begin()
            while not self._members:
                self._members += self._starting.settle(_wait(self._starting.references))
        except BaseException:
            self._stop()
            raise
        return self

    @property
    def ready(self) -> int:
        """Workers whose engines have started."""
        return len(self._members)

    def __exit__(self, *_: object) -> None:
        """Ends the worker processes and with them their engines."""
        self._stop()

    def _stop(self) -> None:
        for member in [*self._members, *self._starting.members]:
            ray.kill(member.actor)
        self._members = []
        self._starting.forget()

    def run(
        self, pieces: Iterable[PieceT], retries: int, most_restarts: int
    ) -> Iterator[Done[PieceT, Any] | GivenUp[PieceT]]:
        """Takes pieces of work to receipts.

        What a worker held when it died is halved, each half runs alone, and so on: of n documents, one that kills is
        found with 1 + log2(n) deaths. What cannot be halved is given up after ``retries`` more. A dead worker's
        replacement takes part once its engine has started: where a machine is lost, the others do its work. On SIGTERM
        or Ctrl-C the pieces in hand are finished and nothing else is begun; a second signal ends at once.

        Args:
            pieces: Work, pulled as workers take it.
            retries: Further tries of a piece that failed.
            most_restarts: Workers that may die.

        Yields:
            Finished pieces with what the pipeline returned, and given-up pieces, in the order in which they end.

        Raises:
            IndexerError: Too many workers died, no machine is left for any, or a piece failed for a reason that is not
                its own.
            KeyboardInterrupt: A signal asked to stop.
        """
        fresh: Iterator[Piece] = iter(pieces)
        queue: deque[Lease] = deque()
        self.restarts = 0
        self._last_capacity = time.monotonic()
        with asked_to_stop() as asked:
            while True:
                if not asked.is_set():
                    self._lease(queue, fresh)
                leased = {reference: member for member in self._members for reference in member.leases}
                if not leased and (asked.is_set() or not queue):
                    break
                ended = _wait([*leased, *self._starting.references])
                for reference in leased.keys() & ended:
                    yield from self._settle(leased[reference], reference, queue, retries)
                self._members += self._starting.settle(ended, others=bool(self._members))
                if not leased:
                    self._check_capacity()
                if self.restarts > most_restarts:
                    raise IndexerError(f"{self.restarts} workers died, run.max_restarts allows {most_restarts}")
        if asked.is_set():
            raise KeyboardInterrupt

    def _lease(self, queue: deque[Lease], fresh: Iterator[Piece]) -> None:
        """Gives each worker in turn one more piece until none takes more or nothing is left."""
        given = True
        while given:
            given = False
            # Also where no worker is ready: what is queued keeps the run going until one is.
            if not queue and (piece := next(fresh, None)) is not None:
                queue.append(Lease(piece))
            for member in sorted(self._members, key=lambda member: len(member.leases)):
                if not queue and (piece := next(fresh, None)) is not None:
                    queue.append(Lease(piece))
                if queue and member.takes(queue[0]):
                    lease = queue.popleft()
                    member.leases[member.actor.run.remote(lease.piece)] = lease
                    given = True

    def _check_capacity(self) -> None:
        """Ends a run that nobody works on and no machine of the cluster could."""
        if self._placement.capacity:
            self._last_capacity = time.monotonic()
        elif time.monotonic() - self._last_capacity > DESERTED_SECONDS:
            raise IndexerError(
                f"the machines of all workers are lost, and no other came in {DESERTED_SECONDS:.0f} seconds; the same "
                "command resumes"
            )

    def _settle(
        self, member: WorkerHandle, reference: Any, queue: deque[Lease], retries: int
    ) -> Iterator[Done[Any, Any] | GivenUp[Any]]:
        """What came of a reference: a piece is done or failed, or its worker died."""
        try:
            receipt = ray.get(reference)
        except RayTaskError as error:
            raised = cause(error)
            if not isinstance(raised, CorpusError):
                raise raised from None
            yield from member.leases.pop(reference).fail(queue, retries, str(raised))
        except RayError as error:
            yield from self._replace_dead(member, queue, retries, f"worker died: {death(error)} ({member.where})")
        else:
            yield Done(member.leases.pop(reference).piece, receipt)

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
                yield from lease.fail(queue, retries, reason)
            else:
                queue.append(lease)
        say(f"{reason}; another one is started")
        ray.kill(member.actor)  # Ray may only have lost sight of it, and it holds a GPU
        self.restarts += 1
        self._members.remove(member)
        self._starting.begin()


def _wait(references: list[Any]) -> set[Any]:
    """References that have ended, after a moment at most; none may be left where all workers rest before a start."""
    if not references:
        time.sleep(STOP_SECONDS / 4)
        return set()
    ended, _ = ray.wait(references, num_returns=1, timeout=STOP_SECONDS)
    return set(ended)
