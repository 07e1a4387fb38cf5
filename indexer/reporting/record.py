"""The report of one run, as it lies in ``_<index>/runs``. Attribute names are the JSON keys on disk."""

from collections.abc import Sequence
from typing import Any

from pydantic import field_validator

from indexer.reporting.summary_keys import empty_summary
from indexer.storage.put_once import Record

SECONDS_PER_HOUR = 3600.0

SUCCESSFUL = ("published", "unchanged")
"""Statuses after which the index is up to date."""


class Interval(Record):
    """A stretch of time that the driver spent on a stage.

    Attributes:
        stage: Name of the stage.
        began: Seconds after the run's beginning.
        seconds: Its length.
    """

    stage: str
    began: float
    seconds: float


class GateRecord(Record):
    """A gate as it was measured.

    Attributes:
        name: Its name in the summary.
        measured: The measured value.
        allowed: The bound; ``None`` in epochs of versions that recorded none.
        holds: Whether it let the epoch pass.
    """

    name: str
    measured: float
    allowed: float | None
    holds: bool


class CostRecord(Record):
    """What a run held and what that cost.

    Attributes:
        gpus: GPUs that its workers held; 0 on CPUs.
        gpu_hours: GPU-hours from each worker's placement to its end. Older reports: these GPUs times the
            hours from the first request for workers to their end.
        gpu_hour_price: ``run.gpu_hour_price``; ``None`` where it is not set.
        money: GPU-hours times the price; ``None`` without a price.
    """

    gpus: float
    gpu_hours: float
    gpu_hour_price: float | None
    money: float | None


class RunReport(Record):
    """Everything that is known of one run, however it ended.

    Attributes:
        index: Name of the index.
        began: Time at which it began, ISO 8601 in UTC. ``ended`` likewise.
        version: Version of this package.
        model: Name of the model.
        summary: The last line of the run. Keys that an older version did not write are those of a run that did nothing.
        gates: The gates that were measured.
        intervals: The driver's stages, in the order in which they ended.
        examples: Ids of some quarantined documents by reason.
        workers: Machine and GPU of every worker whose engine started, replacements included.
        losses: Why workers died.
        made_with: vLLM, torch, device, driver and engine arguments of the night's engines.
        cost: GPU-hours and money.
    """

    index: str
    began: str
    ended: str
    version: str
    model: str
    summary: dict[str, Any]
    gates: list[GateRecord]
    intervals: list[Interval]
    examples: dict[str, list[str]]
    workers: list[str]
    losses: list[str]
    made_with: dict[str, str]
    cost: CostRecord

    @field_validator("summary")
    @classmethod
    def _complete(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Adds the keys of later versions, so that no reader has to ask for them."""
        if "status" not in given:
            raise ValueError("a summary tells how its run ended")
        return empty_summary(given["status"]) | given

    @property
    def status(self) -> str:
        """How the run ended."""
        return str(self.summary["status"])

    @property
    def epoch(self) -> int | None:
        """The epoch that is published after the run, if the run got so far."""
        epoch = self.summary["epoch"]
        return None if epoch is None else int(epoch)

    @property
    def seconds(self) -> float:
        """Seconds that the driver spent in stages, before and after a failure alike."""
        return sum(interval.seconds for interval in self.intervals)

    @property
    def stem(self) -> str:
        """Name of its files: names sort by the time at which the runs began."""
        digits = "".join(character for character in self.began.partition("+")[0] if character.isdigit())
        return f"{digits[:8]}T{digits[8:14]}-{digits[14:]}-{self.status}"


def gate_trend(reports: Sequence[RunReport], name: str) -> list[float]:
    """What a gate measured in the runs that measured it, oldest first."""
    return [gate.measured for report in reports for gate in report.gates if gate.name == name]
