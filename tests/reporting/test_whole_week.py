"""A week of nights on a cluster of two machines, watched by a real Prometheus with our alert rules."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from indexer.reporting.record import RunReport
from indexer.reporting.runs import RunReports
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from tests.support import drive
from tests.support.browser import opened
from tests.support.fakes import POISON, poison_token, published_rows, quarantine, settings, words, write
from tests.support.rays import is_at_work, join, lose, ray_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ALERTS = Path(__file__).parents[2] / "configs" / "monitoring" / "alerts.yaml"

DOCUMENTS = 200

SCRAPED = 3.0
"""Seconds in which Prometheus, which looks each second, has seen what is there."""


NEW = ("new", "a new document")

Rows = list[tuple[str, str]]

Ask = Callable[[str], list[dict[str, Any]]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Silent(SimpleHTTPRequestHandler):
    """Serves a folder, as a node exporter serves its text files."""

    extensions_map = {".prom": "text/plain; version=0.0.4"}  # noqa: RUF012  # the class's own attribute

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """A folder on a port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def prometheus(folder: Path, file_port: int, ray_port: int) -> Iterator[Ask]:
    """A Prometheus that scrapes both, and a function that asks it."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus on this machine; .ci/run installs it (Debian: package prometheus)")
    jobs = [
        {
            "job_name": "node",
            "metrics_path": "/indexer.prom",
            "static_configs": [{"targets": [f"127.0.0.1:{file_port}"]}],
        },
        {"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{ray_port}"]}]},
    ]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = {"global": every, "rule_files": [str(ALERTS)], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{_free_port()}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]

    def ask(query: str) -> list[dict[str, Any]]:
        url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    with subprocess.Popen([program, *options, f"--web.listen-address={address}"], stderr=subprocess.PIPE) as process:
        try:
            yield ask
        finally:
            process.terminate()
            process.communicate(timeout=60)


def _wait(until: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


@dataclass(frozen=True)
class Week:
    """A corpus, its index, and the commands that index it on a cluster.

    Attributes:
        root: Folder of corpus and index.
        sections: Settings.
        ask: Asks Prometheus.
    """

    root: Path
    sections: dict[str, dict[str, object]]
    ask: Ask

    @property
    def settings(self) -> Settings:
        """The settings of every night."""
        return settings(self.root, **self.sections)

    def reports(self) -> list[RunReport]:
        """Reports of the nights."""
        return RunReports(self.settings.index.uri, "docs").latest()

    def staged(self, epoch: int) -> int:
        """Shards that are staged for an epoch."""
        return len(ControlStore(self.settings.index.uri, "docs").receipts(epoch).ids())

    def night(self, rows: Rows, expected: int = 0, **faults: object) -> RunReport:
        """A night that ends with an exit status; its report, when Prometheus has seen its metrics."""
        write(self.root / "corpus" / "a.parquet", rows)
        ended = drive.ended(self.root, self.sections, **faults)
        assert ended.returncode == expected, ended.stderr
        time.sleep(SCRAPED)
        return self.reports()[-1]

    def begun(self, epoch: int, rows: Rows) -> subprocess.Popen[str]:
        """A night that is at work."""
        write(self.root / "corpus" / "a.parquet", rows)
        process = drive.begun(self.root, self.sections)
        _wait(lambda: self.staged(epoch) > 4)
        return process

    def killed_night(self, epoch: int, rows: Rows) -> int:
        """A night whose driver is killed; how many shards it has staged."""
        process = self.begun(epoch, rows)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        return self.staged(epoch)

    def night_that_loses(self, machine: int, epoch: int, rows: Rows) -> RunReport:
        """A night that loses a machine while it is at work."""
        process = self.begun(epoch, rows)
        _wait(lambda: is_at_work(machine))
        lose(machine)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        return self.reports()[-1]

    def value(self, query: str) -> float:
        """The number that a query gives."""
        (found,) = self.ask(query)
        return float(found["value"][1])


def play(week: Week, machine: int) -> None:
    """Changes, a poison document, a refused gate, a killed run, a lost machine, a quiet night."""
    first, fourth, fifth = (words(DOCUMENTS, seed=seed) for seed in (0, 4, 5))
    assert week.night(first).summary["indexed"] == DOCUMENTS
    poisoned = [*words(40, seed=1), *first[40:], ("poison", f"a {POISON} comes")]
    assert week.night(poisoned, exits_on=poison_token()).summary["quarantined"] == 1
    assert week.value('indexer_quarantined_documents{reason="poison"}') == 1
    assert week.night(first[:20], 3).status == "refused"
    assert week.ask('ALERTS{alertname="IndexRefused",alertstate="firing",index="docs"}')
    assert week.value('indexer_last_run_status{status="refused"}') == 1
    staged = week.killed_night(3, fourth)
    assert week.night(fourth).summary["resumed_shards"] == staged > 4
    assert not week.ask('ALERTS{alertname="IndexRefused"}')
    assert week.night_that_loses(machine, 4, fifth).summary["restarts"] == 1
    assert week.night([*fifth[:-1], NEW]).summary["new"] == 1
    assert week.night([*fifth[:-1], NEW]).status == "unchanged"
    assert quarantine(week.settings) == []
    assert published_rows(week.settings, 96) == sorted((name, 0) for name, _ in [*fifth[:-1], NEW])


def check_metrics(week: Week) -> None:
    """What Prometheus knows after the week: of the last run's file, and of every run through Ray."""
    value = week.value
    assert value("indexer_epoch") == 5
    assert value("indexer_last_run_timestamp_seconds") == value("indexer_last_success_timestamp_seconds")
    done = 'sum(max_over_time(ray_indexer_work_total{index="docs",outcome="done"}[10m]))'
    assert value(done) > 2 * DOCUMENTS, "each run is a process with counters of its own"
    assert value('sum(max_over_time(ray_indexer_work_total{outcome="given up"}[10m]))') > 0
    assert value("max(max_over_time(ray_indexer_workers_lost_total[10m]))") >= 1
    assert value("max(max_over_time(ray_indexer_workers_ready[10m]))") == 2
    assert week.ask('ray_indexer_stage_seconds_bucket{stage="engine"}')


def test_a_week_with_a_refusal_a_kill_a_poison_and_a_lost_machine_is_seen(tmp_path: Path) -> None:
    watched, metrics_port = tmp_path / "watched", _free_port()
    watched.mkdir()
    with (
        ray_head(1, 0, f"--metrics-export-port={metrics_port}") as head,
        served(watched) as file_port,
        prometheus(tmp_path, file_port, metrics_port) as ask,
    ):
        sections: dict[str, dict[str, object]] = {
            "run": {"shard_mb": 0.0024, "progress": "none", "metrics_file": str(watched / "indexer.prom")},
            "cluster": {"address": head.address, "workers": 2},
        }
        week = Week(tmp_path, sections, ask)
        play(week, join(head, cores=1))
        check_metrics(week)
    reports = week.reports()
    statuses = [report.status for report in reports]
    assert statuses == ["published", "published", "refused", "published", "published", "published", "unchanged"]
    assert [report.summary["restarts"] > 0 for report in reports] == [False, True, False, False, True, False, False]
    with opened(tmp_path / "index" / "_docs" / "runs" / f"{reports[4].stem}.html") as page:
        assert "died" in page.locator("body").inner_text()
