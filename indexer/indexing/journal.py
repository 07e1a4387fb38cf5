"""What a run has done so far, for its report, however it ends."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema, tracing
from indexer.cluster.pool import WorkerPool
from indexer.progress import Stopwatch
from indexer.publishing.gates import Gate
from indexer.reporting.record import SECONDS_PER_HOUR, Interval

EXAMPLES = 5
"""Quarantined documents that a report names per reason."""

ID_CHARACTERS = 80
"""Longest id that a report shows; the quarantine table has all of it."""


@dataclass
class Journal(Stopwatch):
    """Seconds by stage, and the facts of a run as they become known.

    Attributes:
        began: Seconds since 1970.
        intervals: The driver's stages.
        gates: The latest measurement of every gate, by name.
        examples: Ids of some quarantined documents by reason.
        counts: Counts of the comparison by their names in the summary, once it is made.
        pools: The pools of workers, which know where these were and why some died.
        report: Where the run's report lies, once it is written.
    """

    began: float = field(default_factory=time.time)
    intervals: list[Interval] = field(default_factory=list)
    gates: dict[str, Gate] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    pools: list[WorkerPool] = field(default_factory=list)
    report: str | None = None

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to ``stage`` and notes when it was."""
        start = time.time()
        try:
            with tracing.span(stage), super().__call__(stage):
                yield
        finally:
            seconds = round(time.time() - start, 3)
            self.intervals.append(Interval(stage=stage, began=round(start - self.began, 3), seconds=seconds))

    def measured(self, gates: Iterable[Gate]) -> None:
        """Notes gates."""
        self.gates |= {gate.name: gate for gate in gates}

    def note_quarantine(self, rows: Sequence[pa.Table]) -> None:
        """Notes some ids by reason.

        Args:
            rows: Tables with the columns id, row and reason.
        """
        for table in rows:
            for reason in pc.unique(table["reason"]).to_pylist():
                known = self.examples.setdefault(reason, [])
                of_reason = table.filter(pc.equal(table["reason"], reason)).slice(0, EXAMPLES - len(known))
                names = zip(of_reason[schema.ID].to_pylist(), of_reason["row"].to_pylist(), strict=True)
                known += [_short(name) if name is not None else f"(row {row})" for name, row in names]

    def last_line(self, ended: Mapping[str, Any]) -> dict[str, Any]:
        """The summary of a run that published nothing, with what the run had found."""
        found = {name: count for name, count in self.counts.items() if name in ended}
        return {**ended, **found, "fallbacks": self.fallbacks, "report": self.report}

    @property
    def workers(self) -> list[str]:
        """Machine and GPU of every worker that started."""
        return [place for pool in self.pools for place in pool.starts.places]

    @property
    def losses(self) -> list[str]:
        """Why workers died."""
        return [reason for pool in self.pools for reason in pool.losses]

    @property
    def fallbacks(self) -> list[str]:
        """Slower ways that engines took, with the reasons."""
        return list(dict.fromkeys(way for pool in self.pools for way in pool.starts.fallbacks))

    @property
    def compile_seconds(self) -> float:
        """The longest time that an engine compiled the model."""
        return max((pool.starts.compile_seconds for pool in self.pools), default=0.0)

    @property
    def gpus(self) -> float:
        """GPUs that the workers held."""
        return max((pool.used.gpus for pool in self.pools), default=0.0)

    @property
    def gpu_hours(self) -> float:
        """GPU-hours from each worker's placement to its end, once the pools have ended."""
        return sum(pool.used.seconds for pool in self.pools) / SECONDS_PER_HOUR

    @property
    def ready_gpu_hours(self) -> float:
        """GPU-hours from the start of each engine to its end, once the pools have ended."""
        return sum(pool.used.ready_seconds for pool in self.pools) / SECONDS_PER_HOUR


def _short(name: str) -> str:
    """An id as a report shows it."""
    return name if len(name) <= ID_CHARACTERS else f"{name[:ID_CHARACTERS]}..."
