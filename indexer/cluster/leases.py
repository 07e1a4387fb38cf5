"""Leases: which worker holds which piece of work, and how each piece ended."""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic

import ray
from ray.exceptions import RayError

from indexer.cluster.pipeline import PIECES_INSIDE, Piece, PieceT, ReceiptT


@dataclass(frozen=True)
class Done(Generic[PieceT, ReceiptT]):
    """A piece of work and what the pipeline returned for it.

    Attributes:
        piece: The work.
        receipt: What the pipeline returned.
        began: Seconds since 1970 at which a worker got the piece.
        where: The worker's machine and GPU.
    """

    piece: PieceT
    receipt: ReceiptT
    began: float
    where: str


@dataclass(frozen=True)
class GivenUp(Generic[PieceT]):
    """A piece of work that no worker could finish, and why."""

    piece: PieceT
    reason: str


@dataclass
class Lease:
    """A piece of work that has no receipt yet.

    Attributes:
        piece: The work.
        failures: Workers that died or failed with this piece alone.
        suspect: A worker died while it held this piece, or the piece that this is a half of.
        began: Seconds since 1970 at which the latest worker got it.
    """

    piece: Piece
    failures: int = 0
    suspect: bool = False
    began: float = 0.0

    def fail(self, queue: deque["Lease"], retries: int, reason: str) -> list[GivenUp[Any]]:
        """Counts a failure of this piece alone and queues it again; gives it up after ``retries`` failures more."""
        self.failures += 1
        if self.failures > retries:
            return [GivenUp(self.piece, reason)]
        queue.append(self)
        return []


@dataclass
class WorkerHandle:
    """The driver's record of a worker actor.

    Attributes:
        actor: Ray's handle.
        placed: Reference that gives the worker's machine and GPU once Ray has placed it.
        started: Reference that ends when the engine has started or failed to.
        tries: Starts of this worker so far, this one included.
        share: Workers that share its GPU.
        asked: Monotonic time of the request to Ray; once the worker is placed, the time when the driver saw that.
        where: Machine and GPU, once it is placed.
        ready: Monotonic time at which the driver saw that its engine had started; ``None`` before.
        leases: Its leases, by the references that give the receipts.
    """

    actor: Any
    placed: Any
    started: Any
    tries: int
    share: int
    asked: float
    where: str = ""
    ready: float | None = None
    leases: dict[Any, Lease] = field(default_factory=dict)
    _asked_step: Any = None
    _step: str = "loading Python modules"

    def current_step(self) -> str:
        """What its start is doing, by its latest answer, for which nobody waits; call it again and again."""
        if self._asked_step is None:
            self._asked_step = self.actor.step.remote()
        with suppress(RayError):  # it died: its start tells why
            if ray.wait([self._asked_step], timeout=0)[0]:
                answered, self._asked_step = self._asked_step, None
                self._step = ray.get(answered) or self._step
        return self._step

    def takes(self, lease: Lease) -> bool:
        """Whether the worker may get this lease now."""
        # A suspect runs alone, in either direction: if the worker dies again, only one piece can be to blame.
        if lease.suspect or any(held.suspect for held in self.leases.values()):
            return not self.leases
        return len(self.leases) < PIECES_INSIDE
