"""Writes the report of a run: whatever became of it, and without ever making it fail."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from indexer.errors import IndexerError, RefusedError, SettingsError, fault_line
from indexer.indexing.journal import Journal
from indexer.progress import say
from indexer.publishing.gates import Gate, GatesRefusal
from indexer.reporting import metrics
from indexer.reporting.page import run_page
from indexer.reporting.record import SUCCESSFUL, CostRecord, GateRecord, RunReport
from indexer.reporting.runs import RunReports
from indexer.schema import ID
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch
from indexer.version import __version__


def write(settings: Settings, journal: Journal, summary: Mapping[str, Any], error: BaseException | None = None) -> None:
    """Records a run beside the index's other control files, and notes in the journal where.

    Args:
        settings: The settings.
        journal: What the run did.
        summary: Its last line.
        error: What ended it, if it did not end by itself.
    """
    with _only_warned("the report of this run"):
        store = ControlStore(settings.index.uri, settings.index.name)
        if isinstance(error, SettingsError) and not store.epoch_numbers():
            return  # a mistyped URI must not become a folder
        if isinstance(error, GatesRefusal):
            journal.measured(error.gates)
        reports = RunReports(settings.index.uri, settings.index.name)
        report, before = _report(settings, journal, summary, store), reports.latest()
        _write_metrics(settings, report, _with_success(reports, before))
        journal.report = reports.put(report, run_page(report, before))
        say(f"{_next_step(error)}report: {journal.report}")


def _with_success(reports: RunReports, before: Sequence[RunReport]) -> Sequence[RunReport]:
    """The latest runs, after the last one that succeeded where none of them did: an alert counts from there."""
    if any(run.status in SUCCESSFUL for run in before):
        return before
    last = reports.latest_success()
    return before if last is None else [last, *before]


@contextmanager
def _only_warned(what: str) -> Iterator[None]:
    """Turns every error of the block into a line: what is told of a run must not decide how it ends."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # of whatever kind, also a fault of ours
        if isinstance(error, IndexerError):
            reason = str(error)
        else:
            reason = (isinstance(error, OSError) and error.strerror) or fault_line(error, "writing it")
        say(f"{what} could not be written: {reason}", "WARNING")


def _next_step(error: BaseException | None) -> str:
    """What may be done after a run that ended early, as the beginning of a line."""
    if isinstance(error, RefusedError):
        return "the published epoch stays as it is; "
    if error is None or (isinstance(error, IndexerError) and error.exit_code != IndexerError.exit_code):
        return ""
    return "what is staged is kept, and the same command goes on from it; "


def _write_metrics(settings: Settings, report: RunReport, before: Sequence[RunReport]) -> None:
    """Writes the run's metrics where the settings say."""
    path, gateway = settings.run.metrics_file, settings.run.push_gateway
    if path is not None:
        with _only_warned(f"run.metrics_file: {path}"):
            metrics.write(path, report, before)
    if gateway is not None:
        with _only_warned("the metrics at run.push_gateway"):
            metrics.push(gateway, report, before)


def _report(settings: Settings, journal: Journal, summary: Mapping[str, Any], store: ControlStore) -> RunReport:
    """The report of a run that ends now."""
    epoch = None if summary["epoch"] is None else store.epoch(summary["epoch"])
    if epoch is not None and summary["quarantined"]:
        journal.examples = {}
        journal.note_quarantine([store.quarantine(epoch, [ID, "row", "reason"])])
    engine = epoch.description.engine if epoch is not None else None
    return RunReport(
        index=settings.index.name,
        began=datetime.fromtimestamp(journal.began, UTC).isoformat(timespec="microseconds"),
        ended=datetime.now(UTC).isoformat(timespec="microseconds"),
        version=__version__,
        model=settings.model.name,
        summary=dict(summary),
        gates=_gates(epoch, journal.gates.values()),
        intervals=journal.intervals,
        examples=journal.examples,
        workers=journal.workers,
        losses=journal.losses,
        made_with=engine.made_with if engine is not None else {},
        cost=_cost(settings, journal),
    )


def _gates(epoch: Epoch | None, measured: Iterable[Gate]) -> list[GateRecord]:
    """The gates of the published epoch, or those that a run without one has measured."""
    if epoch is None:
        return [GateRecord(**asdict(gate)) for gate in measured]
    allowed = epoch.description.bounds
    return [
        GateRecord(name=name, measured=value, allowed=allowed.get(name), holds=True)
        for name, value in epoch.description.gates.items()
    ]


def _cost(settings: Settings, journal: Journal) -> CostRecord:
    """GPU-hours that the workers held, and what they cost."""
    hours, price = journal.gpu_hours, settings.run.gpu_hour_price
    return CostRecord(
        gpus=journal.gpus,
        gpu_hours=round(hours, 6),
        gpu_hour_price=price,
        money=None if price is None else round(hours * price, 4),
    )
