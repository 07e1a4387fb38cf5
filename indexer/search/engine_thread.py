"""Engines for queries, each in a thread of its own: what several threads ask for at once is computed in one call."""

import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from indexer.errors import EngineDead, IndexerError, first_line, free_frames
from indexer.inference.engine import Embedder, Scorer
from indexer.inference.sequences import TokenSequences
from indexer.progress import say

MOST_TOGETHER = 1024
"""Sequences after which a batch takes no further request: somebody waits for the first one."""

EngineT = TypeVar("EngineT", bound=Embedder | Scorer)


@dataclass
class _Request:
    """Sequences that a thread waits for.

    Attributes:
        sequences: Their token ids.
        second: As in :meth:`indexer.inference.engine.Engine.score`.
        answer: What the engine gives for them.
    """

    sequences: TokenSequences
    second: np.ndarray | None
    answer: "Future[np.ndarray]" = field(default_factory=Future)


class EngineThread(ABC, Generic[EngineT]):
    """An engine that any number of threads may ask. It starts with the first request.

    An engine is started and used in one thread, since vLLM binds it to its cores there. A caller that is interrupted
    stops waiting; the engine does not notice. An engine that dies is replaced for the next request.
    """

    def __init__(self, start: Callable[[], EngineT]) -> None:
        """Describes the engine.

        Args:
            start: Starts an engine; it is called in the engine's thread.
        """
        self._work = _Work(start, self._compute)
        # The thread does not know this object, so that forgetting the object ends the thread.
        self._finalizer = weakref.finalize(self, self._work.close)

    def close(self) -> None:
        """Ends the engine and its thread. Who waits for an answer gets an error; a second call does nothing."""
        self._finalizer()

    @property
    def is_started(self) -> bool:
        """Whether anybody has asked the engine."""
        return self._work.is_started

    def _ask(self, sequences: TokenSequences, second: np.ndarray | None) -> np.ndarray:
        """Waits for the engine's answer."""
        return self._work.ask(sequences, second)

    @staticmethod
    @abstractmethod
    def _compute(engine: EngineT, sequences: TokenSequences, second: np.ndarray | None) -> np.ndarray:
        """One call of the engine."""


class QueryEmbedder(EngineThread[Embedder]):
    """An embedding engine for many threads.

    Attributes:
        dimension: Width of the vectors.
    """

    def __init__(self, start: Callable[[], Embedder], dimension: int) -> None:
        """Describes the engine; ``start`` is called in its thread."""
        super().__init__(start)
        self.dimension = dimension

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        """Unit vectors as :meth:`indexer.inference.engine.Embedder.embed` gives them, in input order.

        Raises:
            IndexerError: The engine cannot start, it died, or it was closed.
        """
        return self._ask(sequences, None) if len(sequences) else np.empty((0, self.dimension), np.float32)

    @staticmethod
    def _compute(engine: Embedder, sequences: TokenSequences, second: np.ndarray | None) -> np.ndarray:  # noqa: ARG004
        """Vectors."""
        return engine.embed(sequences)


class PairScorer(EngineThread[Scorer]):
    """A reranker's engine for many threads."""

    def score(self, sequences: TokenSequences, second: np.ndarray | None = None) -> np.ndarray:
        """Scores, float32, shape (len(sequences),), in input order; errors as :meth:`QueryEmbedder.embed`."""
        return self._ask(sequences, second) if len(sequences) else np.empty(0, np.float32)

    @staticmethod
    def _compute(engine: Scorer, sequences: TokenSequences, second: np.ndarray | None) -> np.ndarray:
        """Scores."""
        return engine.score(sequences, second)


class _Work(Generic[EngineT]):
    """The requests of an engine, and the thread that answers them."""

    def __init__(
        self,
        start: Callable[[], EngineT],
        compute: Callable[[EngineT, TokenSequences, np.ndarray | None], np.ndarray],
    ) -> None:
        self._start, self._compute = start, compute
        self._requests: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._engine: EngineT | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_started(self) -> bool:
        """Whether the thread has been started."""
        return self._thread is not None

    def ask(self, sequences: TokenSequences, second: np.ndarray | None) -> np.ndarray:
        """Adds a request and waits for its answer."""
        request = _Request(sequences, second)
        with self._changed:
            if self._is_closed:
                raise IndexerError("this index was closed: open it again to ask it")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="query-engine", daemon=True)
                self._thread.start()
            self._requests.append(request)
            self._changed.notify()
        try:
            return request.answer.result()
        finally:
            request.answer.cancel()  # of a caller that was interrupted; an answer that is there stays

    def close(self) -> None:
        """Ends the thread; the requests that wait fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _serve(self) -> None:
        """Answers until it is closed."""
        while (batch := self._next_batch()) is not None:
            if batch:
                self._answer(batch)
        if (reason := self._drop_engine()) is not None:
            say(f"the engine for queries could not be freed: {reason}", "WARNING")

    def _next_batch(self) -> list[_Request] | None:
        """Requests to compute together; waits for one. ``None`` once closed."""
        batch: list[_Request] = []
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._is_closed)
            while self._requests and (self._is_closed or sum(len(one.sequences) for one in batch) < MOST_TOGETHER):
                request = self._requests.popleft()
                if request.answer.set_running_or_notify_cancel():
                    batch.append(request)
            closed = self._is_closed
        if not closed:
            return batch
        for request in batch:
            request.answer.set_exception(IndexerError("this index was closed while it was asked"))
        return None

    def _answer(self, batch: Sequence[_Request]) -> None:
        """Computes requests in one call; if that fails, each one alone, so that only the guilty one fails."""
        try:
            rows = self._computed(batch)
        except BaseException as error:  # noqa: BLE001  # threads wait for the answers
            failure, is_started = error, self._engine is not None
        else:
            for request, found in zip(batch, rows, strict=True):
                request.answer.set_result(found)
            return
        # Another engine may start now, beside what the error's frames hold of the dead one.
        unfreed: str | None = None
        if isinstance(failure, EngineDead):
            free_frames(failure)
            unfreed = self._drop_engine()
        if unfreed is not None:
            failure = EngineDead(
                f"{failure}; it could not be freed either ({unfreed}): a GPU whose context failed cannot be used again "
                "in this process; start another one"
            )
        for request in batch:
            if len(batch) == 1 or not is_started or unfreed is not None:
                request.answer.set_exception(failure)
            else:
                self._answer([request])

    def _computed(self, batch: Sequence[_Request]) -> list[np.ndarray]:
        """Results of each request, from one call of the engine."""
        if self._engine is None:
            self._engine = self._start()
        seconds = [request.second for request in batch if request.second is not None]
        together = TokenSequences.join([request.sequences for request in batch])
        found = self._compute(self._engine, together, np.concatenate(seconds) if seconds else None)
        # An engine gives a result of each sequence, or of each token.
        is_one_each = len(found) == len(together)
        sizes = [len(one.sequences) if is_one_each else one.sequences.tokens for one in batch]
        ends = np.cumsum(sizes)
        return np.split(found, ends[:-1])

    def _drop_engine(self) -> str | None:
        """Frees the engine, in its own thread. Returns why it cannot be freed, if so; the next request gets another."""
        engine, self._engine = self._engine, None
        try:
            if engine is not None:
                engine.close()
        except Exception as error:  # noqa: BLE001  # vLLM waits for the GPU first, and one that failed refuses that
            return first_line(error)
        return None
