"""Pages that need nothing else: one HTML file, no script, nothing fetched. Everything from outside is escaped."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from indexer.progress import printable
from indexer.reporting.charts import COLOURS, GREY, RED, Bar, bars, number, sparkline, timeline
from indexer.reporting.record import RunReport, gate_trend
from indexer.reporting.runs import NIGHTS

STATUS_COLOURS = {"published": COLOURS[0], "unchanged": GREY}
"""Colour of a night's bar by its status; any other is red."""


def render(template: str, **values: Any) -> str:
    """A page from a template of this package.

    Args:
        template: Its name.
        values: What it names. Texts are escaped, those that move a terminal's cursor too.
    """
    return _environment().get_template(template).render(**values)


def run_page(report: RunReport, before: Sequence[RunReport]) -> str:
    """The page of a run.

    Args:
        report: The run.
        before: Runs before it, oldest first.
    """
    nights = [*before, report][-NIGHTS:]
    gates = [(gate, sparkline(gate_trend(nights, gate.name), gate.allowed)) for gate in report.gates]
    stretches = [(one.stage, one.began, one.seconds) for one in report.intervals]
    return render(
        "run.html",
        title=f"{report.index}: {headline(report)}",
        report=report,
        summary=report.summary,
        gates=gates,
        stages=timeline(stretches) if stretches else None,
        shares=_shares(report),
        charts=_night_charts(nights),
        nights=nights[::-1],
    )


def headline(report: RunReport) -> str:
    """How a run ended, in a few words."""
    epoch = f" epoch {report.epoch}" if report.epoch is not None else ""
    words = {"published": f"published{epoch}", "unchanged": f"nothing changed since{epoch}"}
    return words.get(report.status, f"{report.status}, nothing published")


def _night_charts(nights: Sequence[RunReport]) -> list[tuple[str, Markup]]:
    """Charts over the nights, for those of which there is something to show."""
    found = []
    rates = [night for night in nights if night.summary["tokens_per_second"]]
    if rates:
        points = [Bar(_day(night), night.summary["tokens_per_second"]) for night in rates]
        found.append(("Tokens per second while engines worked", bars(points, "tokens/s")))
    lengths = [Bar(_day(night), night.seconds, STATUS_COLOURS.get(night.status, RED)) for night in nights]
    found.append(("Seconds of every run; grey: nothing changed, red: refused or failed", bars(lengths, "s")))
    return found


def _shares(report: RunReport) -> list[tuple[str, float, float]]:
    """The workers' stages: seconds of all workers, and their share of the workers' time while they embedded."""
    whole = report.summary["stages"].get("embed", 0.0) * max(len(report.workers) - len(report.losses), 1)
    spent = report.summary["worker_stages"]
    return [(stage, seconds, seconds / whole if whole else 0.0) for stage, seconds in spent.items()]


def _day(night: RunReport) -> str:
    """When a run began, to the minute."""
    return datetime.fromisoformat(night.began).strftime("%Y-%m-%d %H:%M")


@cache
def _environment() -> Environment:
    """The templates, with the filters that they use."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "day": _day, "megabytes": lambda size: f"{size / 1e6:,.1f} MB"}
    environment.globals |= {"headline": headline}
    return environment


def _safe(value: Any) -> Any:
    """A value as it is shown: control characters of ids and file names are escaped."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)
