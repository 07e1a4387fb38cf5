"""From pieces of work to receipts on a pool of workers, with progress."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic

from indexer import tracing
from indexer.cluster.leases import Done, GivenUp
from indexer.cluster.metrics import RunMetrics
from indexer.cluster.pipeline import PieceT
from indexer.cluster.pool import WorkerPool
from indexer.progress import Progress
from indexer.settings import ProgressStyle


@dataclass(frozen=True)
class Work(Generic[PieceT]):
    """Work for a pool, and how many failures it tolerates.

    Attributes:
        pieces: The work, pulled as workers take it.
        size: Documents, pairs or sequences of all pieces together.
        unit: Name of the counted unit.
        retries: Further tries of a piece that failed.
        most_restarts: Cap on the workers that die.
        index: Index whose metrics count the work; ``None`` for work that no metric counts.
    """

    pieces: Iterable[PieceT]
    size: int
    unit: str
    retries: int
    most_restarts: int
    index: str | None = None


def drive(
    pool: WorkerPool,
    work: Work[PieceT],
    style: ProgressStyle,
    done: Callable[[Any], None],
    given_up: Callable[[GivenUp[PieceT]], None],
) -> None:
    """Takes every piece to its receipt, or gives it up.

    Args:
        pool: Started workers.
        work: The work.
        style: How progress is shown.
        done: Called with every receipt, in the order in which they come; it has a number of ``tokens``.
        given_up: Called with every piece that no worker could finish.

    Raises:
        IndexerError: As :meth:`indexer.cluster.pool.WorkerPool.run`, and what the callbacks raise.
        KeyboardInterrupt: A signal asked to stop; the pieces in hand are done.
    """
    metrics = RunMetrics(work.index, work.unit) if work.index is not None else None
    with Progress(work.size, style, work.unit) as progress:
        for outcome in pool.run(work.pieces, work.retries, work.most_restarts):
            if isinstance(outcome, GivenUp):
                given_up(outcome)
                progress.add(outcome.piece.size, 0, pool.ready)
            else:
                _trace(outcome, work.unit)
                done(outcome.receipt)
                progress.add(outcome.piece.size, outcome.receipt.tokens, pool.ready)
            if metrics is not None:
                metrics.count(outcome, ready=pool.ready, lost=pool.restarts)


def _trace(outcome: Done[PieceT, Any], unit: str) -> None:
    """Records the span of a finished piece: from the moment when a worker got it, so it may wait for the one before."""
    attributes = {"shard": outcome.piece.shard_id, unit: outcome.piece.size, "tokens": outcome.receipt.tokens}
    tracing.record("shard", outcome.began, time.time(), worker=outcome.where, **attributes)
