"""Engines of one model on a cluster's workers, for work whose results come back to this process.

For queries, pairs and prompts of an evaluation, thousands and not millions: documents of an index never come this way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import numpy as np

from indexer.cluster.connection import Cluster
from indexer.cluster.drive import Work, drive
from indexer.cluster.leases import GivenUp
from indexer.cluster.pipeline import Pipeline
from indexer.cluster.pool import WorkerPool
from indexer.errors import IndexerError
from indexer.inference.pair_inputs import PairBatch
from indexer.inference.sequences import TokenSequences
from indexer.progress import Stopwatch
from indexer.settings import ProgressStyle

SEQUENCES = 256
"""Sequences of one piece of work: a few steps of an engine."""

MOST_RESTARTS = 8
"""Workers that may die: here nothing is bisected, a sequence that kills twice ends the run."""

Method = Literal["embed", "score", "write"]


@dataclass(frozen=True)
class SequenceBatch:
    """Some sequences for a worker.

    Attributes:
        at: Number of the first one.
        ids: Their token ids.
        second: As in :meth:`indexer.engine.Engine.score`.
    """

    at: int
    ids: TokenSequences
    second: np.ndarray | None

    @property
    def shard_id(self) -> str:
        """Its name."""
        return f"{self.at:012d}"

    @property
    def size(self) -> int:
        """Number of sequences."""
        return len(self.ids)

    def halves(self) -> tuple["SequenceBatch", ...]:
        """None: results are wanted of all or not at all."""
        return ()


@dataclass
class EngineAnswer:
    """What an engine gave for a piece.

    Attributes:
        at: Number of its first sequence.
        tokens: Tokens it read.
        result: One row, or one list of ids, per sequence.
    """

    at: int
    tokens: int
    result: Any = None


class ServingPipeline(Pipeline[SequenceBatch, Any, EngineAnswer, EngineAnswer]):
    """Sequences through one of an engine's methods."""

    def __init__(self, make_engine: Callable[[], Any], method: Method) -> None:
        """Starts the engine."""
        self._method = method
        super().__init__(make_engine)

    def _read(self, piece: SequenceBatch, watch: Stopwatch) -> EngineAnswer:  # noqa: ARG002
        return EngineAnswer(piece.at, piece.ids.tokens, piece)

    def _compute(self, held: EngineAnswer, watch: Stopwatch) -> None:
        piece: SequenceBatch = held.result
        more = () if piece.second is None else (piece.second,)
        with watch("engine"):
            held.result = getattr(self._engine, self._method)(piece.ids, *more)

    def _store(self, piece: SequenceBatch, held: EngineAnswer, watch: Stopwatch) -> EngineAnswer:  # noqa: ARG002
        return held


class RemoteEngine:
    """Engines that answer until the block ends."""

    _pool: WorkerPool

    def __init__(
        self, cluster: Cluster, make_engine: Callable[[], Any], method: Method, style: ProgressStyle = "none"
    ) -> None:
        """Describes the engines; :meth:`__enter__` starts them.

        Args:
            cluster: The cluster; it serves one model at a time.
            make_engine: Starts an engine in a worker.
            method: What the engines are asked for.
            style: How progress is shown.
        """
        self._cluster = cluster
        self._make = partial(ServingPipeline, make_engine, method)
        self._style = style

    def __enter__(self) -> Self:
        """Starts as many engines as the settings say."""
        self._pool = self._cluster.pool(self._make, self._cluster.workers)
        self._pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends them."""
        self._pool.__exit__(*error)

    def embed(self, ids: TokenSequences) -> np.ndarray:
        """Vectors of sequences, float32, shape (len(ids), dimension), in input order."""
        found = self._answers(ids, None, "texts")
        return np.concatenate(found) if found else np.empty((0, 0), np.float32)

    def score(self, pairs: PairBatch) -> np.ndarray:
        """Scores of pairs, float32, shape (len(pairs.ids),), in input order."""
        return np.concatenate([np.empty(0, np.float32), *self._answers(pairs.ids, pairs.second, "pairs")])

    def write(self, ids: TokenSequences) -> list[list[int]]:
        """Token ids that a generator writes after each sequence."""
        return [written for part in self._answers(ids, None, "prompts") for written in part]

    def _answers(self, ids: TokenSequences, second: np.ndarray | None, unit: str) -> list[Any]:
        """Results of all sequences in their order."""
        found: dict[int, Any] = {}

        def done(answer: EngineAnswer) -> None:
            found[answer.at] = answer.result

        def given_up(sequences: GivenUp[SequenceBatch]) -> None:
            raise IndexerError(f"{unit} from number {sequences.piece.at} on: {sequences.reason}")

        work = Work(_pieces(ids, second), len(ids), unit, retries=1, most_restarts=MOST_RESTARTS)
        drive(self._pool, work, self._style, done, given_up)
        return [found[at] for at in sorted(found)]


def _pieces(ids: TokenSequences, second: np.ndarray | None) -> Iterator[SequenceBatch]:
    for at in range(0, len(ids), SEQUENCES):
        end = at + SEQUENCES
        yield SequenceBatch(at, ids[at:end], None if second is None else second[at:end])
