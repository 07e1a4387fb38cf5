"""The worker pool: leases work, bisects pieces that kill a worker, replaces dead workers."""

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from indexer.cluster.failures import cause, death
from indexer.cluster.growth import Growth
from indexer.cluster.held import GpuUse
from indexer.cluster.leases import Done, GivenUp, Lease, WorkerHandle
from indexer.cluster.pipeline import Piece, PieceT
from indexer.cluster.placement import Placement
from indexer.cluster.starting import Starting
from indexer.cluster.stopping import asked_to_stop
from indexer.cluster.worker import MakePipeline
from indexer.errors import CorpusError, IndexerError
from indexer.progress import say

STOP_SECONDS = 1.0
"""Longest wait before the driver notices a signal to stop."""

DESERTED_SECONDS = 600.0
"""How long a run that lost all machines waits for new ones; managed clusters start them in minutes."""


class WorkerPool:
    """Workers with one engine each, which start when the pool is entered and end with it.

    Attributes:
        size: Workers of the pool.
        restarts: Workers that died in the latest :meth:`run` and were replaced.
        starts: What the engines tell that have started.
        losses: Why workers died.
    """

    def __init__(self, placement: Placement, make_pipeline: MakePipeline, most: int) -> None:
        """Describes the workers; :meth:`__enter__` starts them.

        Args:
            placement: Where workers fit.
            make_pipeline: Builds the pipeline in a worker's process.
            most: Cap on the workers: an engine without work is useless.
        """
        self._placement = placement
        self._starting = Starting(placement, make_pipeline)
        self._growth = Growth(placement, most)
        self._members: list[WorkerHandle] = []
        self.size = 0
        self.restarts = 0
        self.starts = self._starting.told
        self.losses: list[str] = []

    def __enter__(self) -> Self:
        """Starts the engines and waits until the first one is ready; each later one joins when it is ready.

        Raises:
            SettingsError: The cluster has no place for so many workers.
            IndexerError: No engine can be started.
        """
        try:
            self._growth.begin()
            self.size = self._placement.choose(self._growth.most)
            self._starting.begin_all(self._placement.shares or [1] * self.size)
            while not self._members:
                self._settle_starts(_wait(self._starting.references))
        except BaseException:
            self._stop()
            raise
        return self

    def _settle_starts(self, ended: Collection[Any]) -> None:
        """Adds the workers whose engines have started."""
        self._members += self._starting.settle(ended, others=bool(self._members))

    @property
    def used(self) -> GpuUse:
        """What the workers have held of GPUs."""
        return self._starting.held.on_gpus(self._placement, self.size)

    @property
    def ready(self) -> int:
        """Workers whose engines have started."""
        return len(self._members)

    def __exit__(self, *_: object) -> None:
        """Ends the worker processes and with them their engines."""
        self._stop()

    def _stop(self) -> None:
        """Kills every worker process, ready or starting."""
        for member in [*self._members, *self._starting.members]:
            self._starting.held.end(member)
        self._members = []
        self._starting.forget()
        self._growth.end()

    def run(
        self, pieces: Iterable[PieceT], retries: int, most_restarts: int
    ) -> Iterator[Done[PieceT, Any] | GivenUp[PieceT]]:
        """Takes pieces of work to receipts.

        If a worker dies, its pieces are halved and each half runs alone, and so on. One killing document among n is
        found after 1 + log2(n) deaths. A piece without halves is given up after ``retries`` failures more. A dead
        worker's replacement joins once its engine has started. On SIGTERM or Ctrl-C the pieces in hand are finished
        and no other is begun; a second signal ends at once.

        Args:
            pieces: Work, pulled as workers take it.
            retries: Further tries of a piece that failed.
            most_restarts: Cap on the workers that die.

        Yields:
            Finished pieces with what the pipeline returned, and given-up pieces, in the order in which they end.

        Raises:
            IndexerError: Too many workers died, no machine is left, or a piece failed for a reason outside the corpus.
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
                self._follow(work_is_left=bool(queue) and not asked.is_set())
                ended = _wait([*leased, *self._starting.references])
                for reference in leased.keys() & ended:
                    yield from self._settle(leased[reference], reference, queue, retries)
                self._settle_starts(ended)
                # Only an idle run can be deserted: with work in hand, some worker has a machine.
                if not leased:
                    self._check_capacity()
                if self.restarts > most_restarts:
                    raise IndexerError(f"{self.restarts} workers died, run.max_restarts allows {most_restarts}")
        if asked.is_set():
            raise KeyboardInterrupt

    def _follow(self, *, work_is_left: bool) -> None:
        """Takes machines that came; gives back those of idle workers, where an autoscaler is asked for them."""
        if work_is_left:
            for _ in range(self._growth.new_places(len(self._members) + len(self._starting.members))):
                self._starting.begin(self._placement.share or 1)
                self.size += 1
        elif self._growth.waits:
            self._growth.end()
            for member in [member for member in self._members if not member.leases]:
                say(f"no work is left for the worker on {member.where}: its place is given back")
                self._starting.held.end(member)
                self._members.remove(member)

    def _lease(self, queue: deque[Lease], fresh: Iterator[Piece]) -> None:
        """Gives each worker in turn one more piece until none takes more or nothing is left."""
        given = True
        while given:
            given = False
            # Queue a piece even if no worker is ready: an empty queue would end the run before one is.
            if not queue and (piece := next(fresh, None)) is not None:
                queue.append(Lease(piece))
            # The emptiest worker first, one piece each per round: no worker idles while another holds three.
            for member in sorted(self._members, key=lambda member: len(member.leases)):
                if not queue and (piece := next(fresh, None)) is not None:
                    queue.append(Lease(piece))
                if queue and member.takes(queue[0]):
                    lease = queue.popleft()
                    lease.began = time.time()
                    member.leases[member.actor.run.remote(lease.piece)] = lease
                    given = True

    def _check_capacity(self) -> None:
        """Ends a run without workers if the cluster has had no machine for one for too long."""
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
        """Settles an ended reference: its piece is done or failed, or its worker died."""
        try:
            receipt = ray.get(reference)
        except RayTaskError as error:
            raised = cause(error)
            # Only a fault of the corpus belongs to this piece; any other error would hit every piece alike.
            if not isinstance(raised, CorpusError):
                raise raised from None
            yield from member.leases.pop(reference).fail(queue, retries, str(raised))
        except RayError as error:
            yield from self._replace_dead(member, queue, retries, f"worker died: {death(error)} ({member.where})")
        else:
            lease = member.leases.pop(reference)
            yield Done(lease.piece, receipt, lease.began, member.where)

    def _replace_dead(
        self, member: WorkerHandle, queue: deque[Lease], retries: int, reason: str
    ) -> Iterator[GivenUp[Any]]:
        """Replaces a dead worker. Halves its pieces; blames its only piece if that has no halves."""
        # Of several pieces nobody can tell which one killed the worker: none is blamed, each runs alone next.
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
        say(f"{reason}; another one is started", "WARNING")
        self._starting.held.end(member)  # it may still live, unreachable to Ray, and hold a GPU
        self.restarts += 1
        self.losses.append(reason)
        self._members.remove(member)
        self._starting.begin(member.share)


def _wait(references: list[Any]) -> set[Any]:
    """References that have ended within a moment. There are none to wait for while all workers pause before a start."""
    if not references:
        time.sleep(STOP_SECONDS / 4)
        return set()
    ended, _ = ray.wait(references, num_returns=1, timeout=STOP_SECONDS)
    return set(ended)
