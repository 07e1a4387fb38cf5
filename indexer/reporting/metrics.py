"""A run's result as an OpenMetrics text file for the node exporter's textfile collector, and for a push gateway.

All are gauges, which OpenMetrics and Prometheus' older text format write alike.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from http.client import HTTPException
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, push_to_gateway
from prometheus_client.openmetrics.exposition import generate_latest

from indexer.errors import IndexerError
from indexer.reporting.record import SUCCESSFUL, RunReport

STATUSES = (*SUCCESSFUL, "refused", "failed", "interrupted")

COUNTS = ("documents", "indexed", "new", "changed", "deleted", "quarantined", "truncated", "tokens", "restarts")

JOB = "indexer"
"""Label ``job`` of what a push gateway gets."""

PUSH_SECONDS = 10.0
"""How long a push gateway may take."""


def write(path: Path, report: RunReport, before: Sequence[RunReport]) -> None:
    """Writes the file, so that nobody reads half of it.

    Args:
        path: The file; its folder must exist.
        report: The run.
        before: Runs before it, oldest first: the time of the last success comes from them if this run failed.

    Raises:
        OSError: It cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(exposition(report, before))
    unfinished.replace(path)


def push(gateway: str, report: RunReport, before: Sequence[RunReport]) -> None:
    """Replaces the metrics that a Prometheus push gateway has of the index.

    Args:
        gateway: Its address, ``http://host:port``.
        report: The run.
        before: As for :func:`write`.

    Raises:
        IndexerError: It does not answer, or refuses.
    """
    try:
        push_to_gateway(gateway, JOB, _registry(report, before), {"index": report.index}, timeout=PUSH_SECONDS)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or (isinstance(error, TimeoutError) and "it does not answer")
        raise IndexerError(str(reason or type(error).__name__)) from None  # a message may quote the address


def exposition(report: RunReport, before: Sequence[RunReport]) -> bytes:
    """The content of the file."""
    written: bytes = generate_latest(_registry(report, before))  # type: ignore[no-untyped-call]
    return written


def _registry(report: RunReport, before: Sequence[RunReport]) -> CollectorRegistry:
    """The gauges with their values."""
    registry = CollectorRegistry()
    for name, meaning, label, values in [*_of_run(report, before), *_of_index(report)]:
        gauge = Gauge(f"indexer_{name}", meaning, ("index", label) if label else ("index",), registry=registry)
        for value, measured in values.items():
            gauge.labels(report.index, *([value] if label else [])).set(measured)
    return registry


Described = tuple[str, str, str, Mapping[str, float]]
"""Name of a gauge, its meaning, its label beside the index if it has one, and its values by the label's."""


def _of_run(report: RunReport, before: Sequence[RunReport]) -> Iterator[Described]:
    """Gauges of the last run."""
    summary = report.summary
    yield (
        "last_run_status",
        "1 for the status of the last run, else 0",
        "status",
        {status: float(status == report.status) for status in STATUSES},
    )
    yield "last_run_timestamp_seconds", "when the last run ended", "", {"": _ended(report)}
    succeeded = [run for run in (*before, report) if run.status in SUCCESSFUL]
    if succeeded:
        meaning = "when a run last left the index up to date"
        yield "last_success_timestamp_seconds", meaning, "", {"": _ended(succeeded[-1])}
    yield "last_run_seconds", "length of the last run", "", {"": report.seconds}
    yield "last_run_stage_seconds", "the driver's stages", "stage", summary["stages"]
    yield "last_run_gpu_hours", "GPU-hours that the workers held", "", {"": report.cost.gpu_hours}
    yield "last_run_count", "what the last run counted", "what", {name: summary[name] for name in COUNTS}
    rates = [run.summary["tokens_per_second"] for run in (*before, report) if run.summary["tokens_per_second"]]
    if rates:
        yield "tokens_per_second", "rate of the last run that embedded something", "", {"": rates[-1]}


def _of_index(report: RunReport) -> Iterator[Described]:
    """Gauges of what is published, or of what a run without an epoch has measured."""
    summary = report.summary
    if report.epoch is not None:
        yield "epoch", "the published epoch", "", {"": report.epoch}
        share = summary["quarantined"] / max(summary["documents"], 1)
        yield "quarantined_share", "quarantined documents of all", "", {"": share}
    yield "quarantined_documents", "quarantined documents", "reason", summary["quarantine_reasons"]
    yield "gate_measured", "what gates measured", "gate", {gate.name: gate.measured for gate in report.gates}
    bounds = {gate.name: gate.allowed for gate in report.gates if gate.allowed is not None}
    yield "gate_allowed", "bounds of gates", "gate", bounds


def _ended(report: RunReport) -> float:
    """Seconds since 1970 at which a run ended."""
    return datetime.fromisoformat(report.ended).timestamp()
