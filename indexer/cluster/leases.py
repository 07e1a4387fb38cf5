"""Pieces of work on their way: who holds which, and how each ended."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Generic

from indexer.cluster.pipeline import PIECES_INSIDE, Piece, PieceT, ReceiptT


@dataclass(frozen=True)
class Done(Generic[PieceT, ReceiptT]):
    """A piece of work and what the pipeline returned for it."""

    piece: PieceT
    receipt: ReceiptT


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

    def fail(self, queue: deque["Lease"], retries: int, reason: str) -> list[GivenUp[Any]]:
        """Counts a failure of this piece alone: it is queued again, or given up after ``retries`` more."""
        self.failures += 1
        if self.failures > retries:
            return [GivenUp(self.piece, reason)]
        queue.append(self)
        return []


@dataclass
class WorkerHandle:
    """A worker actor as the driver sees it.

    Attributes:
        actor: Ray's handle.
        placed: Reference that ends with the worker's machine and GPU when Ray has found a place.
        started: Reference that ends when the engine has started, or cannot be.
        tries: Starts of this worker so far, this one included.
        asked: When Ray was asked for it, by the monotonic clock; once it is placed, when that was seen.
        where: Machine and GPU, once it is placed.
        leases: What it holds, by the references that end with the receipts.
    """

    actor: Any
    placed: Any
    started: Any
    tries: int
    asked: float
    where: str = ""
    leases: dict[Any, Lease] = field(default_factory=dict)

    def takes(self, lease: Lease) -> bool:
        """Whether the lease may be given now: suspects run alone."""
        if lease.suspect or any(held.suspect for held in self.leases.values()):
            return not self.leases
        return len(self.leases) < PIECES_INSIDE
