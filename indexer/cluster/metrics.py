"""Metrics of a run in progress, through Ray's own: they appear beside Ray's in Prometheus and on its dashboard.

Ray writes ``ray_`` before the names. Labels have few values: the index, the unit, the stage; never an id or a machine.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from indexer.cluster.leases import Done, GivenUp
from indexer.reasons import QuarantineReason

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
"""Bounds of the histogram's buckets."""


class RunMetrics:
    """What the driver counts while work is done. Without a connection to Ray nothing is exported."""

    def __init__(self, index: str, unit: str) -> None:
        """Names the metrics.

        Args:
            index: Value of the label ``index``.
            unit: Value of the label ``unit``: documents, pairs or queries.
        """
        self._work = Counter("indexer_work", "documents, pairs or queries that ended", ("index", "unit", "outcome"))
        self._tokens = Counter("indexer_tokens", "tokens that engines read", ("index",))
        self._lost = Counter("indexer_workers_lost", "workers that died and were replaced", ("index",))
        self._quarantined = Counter("indexer_quarantined", "documents that workers quarantined", ("index", "reason"))
        self._ready = Gauge("indexer_workers_ready", "workers whose engine has started", ("index",))
        self._seconds = Histogram("indexer_stage_seconds", "a worker's stage on a shard", SECONDS, ("index", "stage"))
        for metric in (self._work, self._tokens, self._lost, self._quarantined, self._ready, self._seconds):
            metric.set_default_tags({"index": index})
        self._unit = unit
        self._known_lost = 0
        # Prometheus sees no increase in a counter's first value: without a zero the first losses raise no alert.
        for outcome in ("done", "given up"):
            self._work._record(0, {"unit": unit, "outcome": outcome})  # noqa: SLF001  # inc refuses 0
        for counter in (self._tokens, self._lost):
            counter._record(0)  # noqa: SLF001

    def count(self, outcome: "Done[Any, Any] | GivenUp[Any]", *, ready: int, lost: int) -> None:
        """Counts a piece of work that ended.

        Args:
            outcome: The piece, and the receipt if it has one.
            ready: Workers that are ready.
            lost: Workers lost so far.
        """
        done = isinstance(outcome, Done)
        self._count(self._work, outcome.piece.size, unit=self._unit, outcome="done" if done else "given up")
        if isinstance(outcome, Done):
            self._count(self._tokens, outcome.receipt.tokens)
            for stage, seconds in outcome.receipt.seconds.items():
                self._seconds.observe(seconds, {"stage": stage})
            for reason, documents in getattr(outcome.receipt, "reasons", {}).items():  # scores have none
                self._count(self._quarantined, documents, reason=reason)
        elif self._unit == "documents":
            self._count(self._quarantined, outcome.piece.size, reason=QuarantineReason.POISON.value)
        self._ready.set(ready)
        self._count(self._lost, lost - self._known_lost)
        self._known_lost = lost

    def _count(self, counter: Counter, by: int, **labels: str) -> None:
        """Counts; Ray refuses to count by nothing."""
        if by > 0:
            counter.inc(by, labels)
