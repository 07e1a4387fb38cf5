"""The worker pool: leases of work, bisection of what kills a worker, replacement of dead ones."""

import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic

from indexer.cluster.pipeline import PIECES_INSIDE, Piece, PieceT
from indexer.progress import say

STOP_SECONDS = 1.0
"""How soon a signal to stop is seen while workers work."""

DESERTED_SECONDS = 600.0
"""How long a run whose machines are all lost waits for others, which managed clusters start in minutes."""


@dataclass(frozen=True)
class GivenUp(Generic[PieceT]):
    """A piece of work that no worker could finish, and why."""

    piece: PieceT
    reason: str


@dataclass
class Lease:
    """A piece of work on its way to a receipt.

    Attributes:
        piece: The work.
        failures: Workers that died or failed with this piece alone.
        suspect: A worker died with it, or with what it is a half of; it runs alone, so that the right one is blamed.
    """

    piece: Piece
    failures: int = 0
    suspect: bool = False


@dataclass
class WorkerHandle:
    """A worker actor as the driver sees it.

    Attributes:
        actor: Ray's handle.
        starting: Reference that ends when the engine has started, or cannot be.
        ready: Whether it has: a worker for which the cluster has no place would keep what it was given for ever.
        leases: What it holds, by the references that end with the receipts.
    """

    actor: Any
    starting: Any
    ready: bool = False
    leases: dict[Any, Lease] = field(default_factory=dict)

    def takes(self, lease: Lease) -> bool:
        """Whether the lease may be given now: suspects run alone."""
        if not self.ready:
            return False
        if lease.suspect or any(held.suspect for held in self.leases.values()):
            return not self.leases
        return len(self.leases) < PIECES_INSIDE


def _fail(lease: Lease, queue: deque[Lease], retries: int, reason: str) -> Iterator[GivenUp[Any]]:
    lease.failures += 1
    if lease.failures > retries:
        yield GivenUp(lease.piece, reason)
    else:
        queue.append(lease)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; the second one interrupts."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        say("stopping: shards in hand are finished first; once more to stop at once")
        for number in numbers:
            signal.signal(number, signal.default_int_handler)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)
