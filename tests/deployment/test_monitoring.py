"""Metrics, alert rules and dashboard agree on names and labels; promtool agrees with the alerts if it is installed."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import promql_parser
import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parsed

from indexer.errors import IndexerError
from indexer.reporting import metrics
from indexer.reporting.runs import RunReports
from tests.support.fakes import run_here, settings, words, write

FOLDER = Path(__file__).parents[2] / "configs" / "monitoring"

RAY = {
    "ray_indexer_work_total": {"index", "unit", "outcome"},
    "ray_indexer_tokens_total": {"index"},
    "ray_indexer_workers_lost_total": {"index"},
    "ray_indexer_quarantined_total": {"index", "reason"},
    "ray_indexer_workers_ready": {"index"},
    "ray_indexer_stage_seconds_bucket": {"index", "stage", "le"},
}
"""What Ray exports of indexer.cluster.metrics; tests/cluster/test_metrics.py reads it from Ray."""


def expressions() -> Iterator[str]:
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
    yield from (target["expr"].replace("$index", ".*") for panel in dashboard["panels"] for target in panel["targets"])


def selectors(node: Any) -> Iterator[Any]:
    """Every selector of a parsed expression."""
    if type(node).__name__ == "VectorSelector":
        yield node
    names = ("expr", "lhs", "rhs", "vector_selector", "vs")
    children = [getattr(node, name) for name in names if hasattr(node, name)]
    for child in [*children, *(getattr(node, "args", None) or [])]:
        yield from selectors(child)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metric]:
    """What a run writes, as the client's own parser reads it."""
    root = tmp_path_factory.mktemp("metrics")
    write(root / "corpus" / "a.parquet", [*words(30), ("poor", "")])
    given = settings(root, run={"metrics_file": str(root / "indexer.prom")})
    run_here(given)
    text = (root / "indexer.prom").read_text(encoding="utf-8")
    assert text.endswith("# EOF\n")
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_the_file_says_what_the_summary_says(families: dict[str, Metric]) -> None:
    values = {
        (sample.name, *sorted((name, value) for name, value in sample.labels.items() if name != "index")): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["indexer_last_run_status", ("status", "published")] == 1
    assert values["indexer_last_run_status", ("status", "refused")] == 0
    assert values["indexer_last_run_count", ("what", "indexed")] == 30
    assert values["indexer_quarantined_documents", ("reason", "empty_text")] == 1
    assert values[("indexer_quarantined_share",)] == pytest.approx(1 / 31)
    assert values["indexer_gate_allowed", ("gate", "gates.max_removed")] == 0.2
    assert values[("indexer_epoch",)] == 1
    assert all(sample.labels["index"] == "docs" for family in families.values() for sample in family.samples)


def test_alerts_and_dashboard_name_metrics_and_labels_that_exist(families: dict[str, Metric]) -> None:
    known = {
        name: {"index", *(label for one in family.samples for label in one.labels)} for name, family in families.items()
    }
    known |= RAY
    used = set()
    for expression in expressions():
        found = list(selectors(promql_parser.parse(expression)))
        assert found, expression
        for selector in found:
            used.add(selector.name)
            assert selector.name in known, expression
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert labels <= known[selector.name], expression
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert {name.strip() for name in grouped.split(",")} <= set().union(*(known[one.name] for one in found))
    assert used >= {"indexer_last_success_timestamp_seconds", "indexer_tokens_per_second", *RAY}


def test_promtool_agrees() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on this machine; .ci/run installs it (Debian: package prometheus)")
    for check in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run([promtool, *check], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_places_of_their_own() -> None:
    panels = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))["panels"]
    taken = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_a_failed_run_keeps_the_time_of_the_last_success(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    given = settings(tmp_path)
    run_here(given)
    shutil.rmtree(tmp_path / "corpus")
    with pytest.raises(IndexerError):
        run_here(given)
    first, failed = RunReports(given.index.uri, "docs").latest()
    text = metrics.exposition(failed, [first]).decode()
    (time,) = re.findall(r'^indexer_last_success_timestamp_seconds\{index="docs"\} (\S+)$', text, re.MULTILINE)
    assert float(time) == pytest.approx(metrics._ended(first))
    assert 'indexer_last_run_status{index="docs",status="failed"} 1.0' in text
    assert "last_success" not in metrics.exposition(failed, []).decode()
    assert "indexer_epoch" not in text


def test_the_last_success_is_told_after_any_number_of_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunReports.latest, "__defaults__", (2,))
    write(tmp_path / "corpus" / "a.parquet", words(5))
    given = settings(tmp_path, run={"metrics_file": str(tmp_path / "indexer.prom")})
    run_here(given)
    shutil.rmtree(tmp_path / "corpus")
    for _ in range(4):
        with pytest.raises(IndexerError):
            run_here(given)
    first, *failed = RunReports(given.index.uri, "docs").latest(99)
    assert [run.status for run in failed] == ["failed"] * 4
    text = (tmp_path / "indexer.prom").read_text()
    (time,) = re.findall(r'^indexer_last_success_timestamp_seconds\{index="docs"\} (\S+)$', text, re.MULTILINE)
    assert float(time) == pytest.approx(metrics._ended(first))


def test_a_file_that_cannot_be_written_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    given = settings(tmp_path, run={"metrics_file": str(tmp_path / "nowhere" / "indexer.prom")})
    assert run_here(given)["report"]
    assert "run.metrics_file: " in capsys.readouterr().err


class Gateway(BaseHTTPRequestHandler):
    """A push gateway that keeps what it gets, and answers with ``status``."""

    status = 200
    got: ClassVar[list[tuple[str, str, str]]] = []

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.got.append((self.command, self.path, body))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[str]:
    Gateway.got.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_push_gateway_gets_every_run_s_metrics(tmp_path: Path, gateway: str) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    given = settings(tmp_path, run={"push_gateway": gateway})
    run_here(given)
    shutil.rmtree(tmp_path / "corpus")
    with pytest.raises(IndexerError):
        run_here(given)
    assert [(method, path) for method, path, _ in Gateway.got] == [("PUT", "/metrics/job/indexer/index/docs")] * 2
    first, failed = ({family.name: family for family in parsed(body)} for _, _, body in Gateway.got)
    alerted = {"indexer_last_success_timestamp_seconds", "indexer_last_run_status", "indexer_tokens_per_second"}
    assert alerted <= first.keys() & failed.keys()
    status = {sample.labels["status"]: sample.value for sample in failed["indexer_last_run_status"].samples}
    assert (status["failed"], status["published"]) == (1, 0)


@pytest.mark.parametrize(("status", "reason"), [(500, "Internal Server Error"), (None, "Connection refused")])
def test_a_gateway_that_does_not_take_them_is_a_line(
    tmp_path: Path,
    gateway: str,
    status: int | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Gateway, "status", status)
    write(tmp_path / "corpus" / "a.parquet", words(5))
    given = settings(tmp_path, run={"push_gateway": gateway if status else "http://127.0.0.1:9"})
    assert run_here(given)["report"]
    (line,) = (line for line in capsys.readouterr().err.splitlines() if " WARNING " in line)
    assert re.search(rf"the metrics at run\.push_gateway could not be written: .*{reason}$", line)
    assert "127.0.0.1" not in line


def test_a_gateway_is_an_address_without_credentials(tmp_path: Path) -> None:
    for address in ("gateway:9091", "http://user:secret@gateway:9091", "ftp://gateway"):
        with pytest.raises(ValueError, match="push_gateway"):
            settings(tmp_path, run={"push_gateway": address})
