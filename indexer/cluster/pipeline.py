"""One piece of work end to end on one engine: read, compute, store. Independent of Ray.

Each stage handles one piece at a time. With three pieces inside, the next one is read and the last one is stored while
the engine works.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from indexer.progress import Stopwatch

PIECES_INSIDE = 3
"""Pieces of work a worker holds at once: one reading, one in the engine, one storing."""


class Piece(Protocol):
    """A piece of work: the unit of retry and resume."""

    @property
    def shard_id(self) -> str:
        """Its name, the same whenever the same job is run again."""
        ...

    @property
    def size(self) -> int:
        """Documents, pairs or sequences in it."""
        ...

    def halves(self) -> Sequence["Piece"]:
        """Two pieces with half of the work each; empty if it cannot be divided."""
        ...


PieceT = TypeVar("PieceT", bound=Piece)

HeldT = TypeVar("HeldT")

EngineT = TypeVar("EngineT")

ReceiptT = TypeVar("ReceiptT")


class Pipeline(ABC, Generic[PieceT, EngineT, HeldT, ReceiptT]):
    """Takes pieces of work to durable receipts on one engine. :meth:`run` may be called from several threads."""

    def __init__(self, make_engine: Callable[[], EngineT]) -> None:
        """Starts the engine.

        Args:
            make_engine: Starts the engine; called in the thread that will use it.
        """
        self._reading = threading.Lock()
        self._storing = threading.Lock()
        # One thread for the engine's whole life: OpenMP teams and CUDA contexts belong to the thread that made them.
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._engine = self._engine_thread.submit(make_engine).result()

    @property
    def compile_seconds(self) -> float:
        """Seconds that the engine compiled the model; 0 for an engine that does not."""
        return float(getattr(self._engine, "compile_seconds", 0.0))

    def run(self, piece: PieceT) -> ReceiptT:
        """Takes one piece to a durable receipt.

        Args:
            piece: The work.

        Returns:
            The receipt that counts: another worker's, if that one was put first.

        Raises:
            CorpusError: A file changed or cannot be read.
            EngineDead: The engine failed; the process should end.
        """
        watch = Stopwatch()
        with self._reading:
            held = self._read(piece, watch)
        self._engine_thread.submit(self._compute, held, watch).result()
        with self._storing:
            return self._store(piece, held, watch)

    @abstractmethod
    def _read(self, piece: PieceT, watch: Stopwatch) -> HeldT:
        """Reads and tokenises."""

    @abstractmethod
    def _compute(self, held: HeldT, watch: Stopwatch) -> None:
        """Adds the engine's results to the piece in flight; runs in the engine's thread."""

    @abstractmethod
    def _store(self, piece: PieceT, held: HeldT, watch: Stopwatch) -> ReceiptT:
        """Writes the results and then the receipt."""
