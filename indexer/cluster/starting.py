"""Workers without a ready engine yet: placed, started, retried, given up."""

import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from indexer.cluster.failures import cause, death
from indexer.cluster.held import HeldTime
from indexer.cluster.leases import WorkerHandle
from indexer.cluster.placement import Placement
from indexer.cluster.worker import MakePipeline, Started
from indexer.errors import IndexerError, SettingsError
from indexer.progress import say
from indexer.steps import WaitingLines

START_TRIES = 2
"""Starts of a worker before it is given up: memory may become free, or a hub may answer again, in a moment."""

PAUSE_SECONDS = 10.0
"""Between two starts of a worker."""

START_SECONDS = 3600.0
"""How long a placed engine may take to start: the first one on a machine also downloads its model."""


@dataclass
class EngineStarts:
    """What the engines tell that have started.

    Attributes:
        places: Machine and GPU of each, in the order of their starts.
        fallbacks: Slower ways that they take, with the reasons; each once.
        compile_seconds: The longest time that one compiled the model; 0 if none did.
    """

    places: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    compile_seconds: float = 0.0

    def add(self, started: Started, where: str) -> None:
        """Adds an engine, and says what its worker could only tell its own log."""
        self.places.append(where)
        self.compile_seconds = max(self.compile_seconds, started.compile_seconds)
        for way in started.fallbacks:
            if way not in self.fallbacks:
                self.fallbacks.append(way)
                say(f"{way} (first seen on {where})", "WARNING")


class _Resting(NamedTuple):
    """A worker that failed to start: when it is tried again, its share of a GPU, and the number of that try."""

    until: float
    share: int
    tries: int


class Starting:
    """Workers that are not ready yet.

    Attributes:
        members: Workers that Ray was asked for.
        held: The time of workers that have ended, those of the pool included.
        told: What the engines that have started tell.
    """

    def __init__(self, placement: Placement, make_pipeline: MakePipeline) -> None:
        """Describes the workers.

        Args:
            placement: Where workers fit.
            make_pipeline: Builds the pipeline in a worker's process.
        """
        self._placement = placement
        self._make_pipeline = make_pipeline
        self._resting: list[_Resting] = []
        self._later: deque[int] = deque()
        self._reason: IndexerError | None = None
        self._lines = WaitingLines()
        self.members: list[WorkerHandle] = []
        self.held = HeldTime()
        self.told = EngineStarts()

    def begin(self, share: int = 1, tries: int = 1) -> None:
        """Requests a worker from Ray.

        Args:
            share: Workers that share its GPU.
            tries: Starts of this worker so far, this one included.
        """
        self.members.append(self._placement.start_worker(self._make_pipeline, share, tries))

    def begin_all(self, shares: Sequence[int]) -> None:
        """Requests workers with these shares, the fewest on a GPU first."""
        self._later = deque(shares)
        self._begin_later()

    def _begin_later(self) -> None:
        """Requests workers that share a GPU once those have a place that share it with fewer.

        Ray does not keep the order of requests, and could give a GPU to two of one share that one of the other needs.
        """
        while self._later:
            without = [member.share for member in self.members if not member.where]
            if any(share < self._later[0] for share in [*without, *(rest.share for rest in self._resting)]):
                return
            self.begin(self._later.popleft())

    def forget(self) -> None:
        """Drops all workers and planned starts."""
        self.members, self._resting, self._later = [], [], deque()

    @property
    def references(self) -> list[Any]:
        """References to wait for: each worker's placement, then its engine's start."""
        return [member.started if member.where else member.placed for member in self.members]

    def settle(self, ended: Collection[Any], *, others: bool = False) -> list[WorkerHandle]:
        """Handles ended references and starts whose time has come.

        Args:
            ended: Ended references; those outside :attr:`references` are ignored.
            others: Whether other workers are ready: then a failed start does not end the run.

        Returns:
            Workers that are ready.

        Raises:
            IndexerError: No worker is left, or the corpus or the index prevents every start.
        """
        ready: list[WorkerHandle] = []
        for member in list(self.members):
            if member.where and time.monotonic() - member.asked > START_SECONDS:
                self._failed(member, IndexerError(f"its engine has not started within {START_SECONDS:.0f} s"))
            elif member.where and member.started in ended:
                ready += self._started(member)
            elif not member.where and member.placed in ended:
                self._placed(member)
        for rest in [rest for rest in self._resting if rest.until <= time.monotonic()]:
            self._resting.remove(rest)
            self.begin(rest.share, rest.tries)
        self._begin_later()
        if not (self.members or self._resting or ready or others) and self._reason is not None:
            raise self._reason
        self._tell_what_is_awaited()
        return ready

    def _placed(self, member: WorkerHandle) -> None:
        """Notes where Ray has placed a worker; the time limit of its start begins here."""
        try:
            member.where = ray.get(member.placed)
        except RayError as error:
            self._failed(member, IndexerError(f"its process died: {death(error)}"))
        else:
            member.asked = time.monotonic()

    def _started(self, member: WorkerHandle) -> list[WorkerHandle]:
        """The worker if its engine has started, otherwise none."""
        try:
            started: Started = ray.get(member.started)
        except RayTaskError as error:
            raised = cause(error)
            # The corpus and the index fail alike on every machine. A hub that does not answer, a model's directory that
            # is missing or another file's digest are of one machine, although they are reported as settings.
            if not isinstance(raised, SettingsError) and raised.exit_code != IndexerError.exit_code:
                raise raised from None
            self._failed(member, raised)
        except RayError as error:
            self._failed(member, IndexerError(f"it died while its engine started: {death(error)}"))
        else:
            self.members.remove(member)
            member.ready = time.monotonic()
            self.told.add(started, member.where)
            return [member]
        return []

    def _failed(self, member: WorkerHandle, error: IndexerError) -> None:
        """Retries a failed start once after a pause, then gives this worker up."""
        self.held.end(member)  # it may still live, unreachable to Ray, and hold a GPU
        self.members.remove(member)
        place = f"the worker on {member.where}" if member.where else "a worker without a place"
        self._reason = type(error)(f"{place} cannot start: {error}")
        if member.tries < START_TRIES:
            say(f"{self._reason}; tried again in {PAUSE_SECONDS:.0f} s", "WARNING")
            self._resting.append(_Resting(time.monotonic() + PAUSE_SECONDS, member.share, member.tries + 1))
        else:
            say(f"{self._reason}; given up, the others go on", "WARNING")

    def _tell_what_is_awaited(self) -> None:
        """Says what workers wait for: a place, an engine, a pause."""
        doing: Counter[str] = Counter()
        for member in self.members:
            doing[
                member.current_step() if member.where else f"waiting for {self._placement.needs}, which others use"
            ] += 1
        doing["waiting to be started again"] += len(self._resting)
        doing["waiting until others have a GPU"] += len(self._later)
        told = ", ".join(f"{count} {name}" for name, count in doing.items() if count)
        self._lines.tell(f"starting workers: {told}" if told else "")
