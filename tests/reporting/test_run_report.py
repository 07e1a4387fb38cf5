"""The report of every run, on real tables with the fake engine."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from indexer.cluster.held import GpuUse
from indexer.errors import IndexerError, RefusedError, SettingsError
from indexer.indexing import run as night
from indexer.indexing.journal import Journal
from indexer.reporting.page import run_page
from indexer.reporting.record import CostRecord, RunReport
from indexer.reporting.runs import RunReports
from indexer.settings import Settings
from tests.support.fakes import model, run_here, settings, words, write
from tests.support.local_cluster import LocalCluster, LocalPool

pytestmark = pytest.mark.heavy

NASTY = "<script>alert(1)</script>\x1b[2J"


def reports(given: Settings) -> list[RunReport]:
    return RunReports(given.index.uri, given.index.name).latest()


def pages(given: Settings) -> list[Path]:
    return sorted((Path(given.index.uri) / "_docs" / "runs").glob("*.html"))


class Page(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """An index of one night with a poor document in it."""
    write(tmp_path / "corpus" / "a.parquet", [*words(30), (NASTY, "")])
    given = settings(tmp_path, run={"gpu_hour_price": 2.0})
    run_here(given)
    return given


def test_published_quiet_refused_and_failed_nights_are_recorded(given: Settings, tmp_path: Path) -> None:
    quiet = run_here(given)
    write(tmp_path / "corpus" / "a.parquet", words(10))
    with pytest.raises(RefusedError, match=r"gates\.max_removed"):
        run_here(given)
    shutil.rmtree(tmp_path / "corpus")
    with pytest.raises(IndexerError):
        run_here(given)
    found = reports(given)
    assert [report.status for report in found] == ["published", "unchanged", "refused", "failed"]
    assert [report.epoch for report in found] == [1, 1, None, None]
    published, _, refused, failed = found
    assert [Path(quiet["report"]).name] == [page.name for page in pages(given) if "unchanged" in page.name]
    assert (refused.summary["documents"], refused.summary["deleted"], refused.summary["indexed"]) == (10, 20, 0)
    gates = {gate.name: gate for gate in refused.gates}
    assert not gates["gates.max_removed"].holds
    assert (gates["gates.max_removed"].allowed, gates["gates.max_changed"].holds) == (0.2, True)
    assert {gate.name: gate.allowed for gate in published.gates}["gates.sampled_cosine"] == 0.999
    assert all(gate.holds for gate in published.gates)
    assert published.examples == {"empty_text": [NASTY]}
    assert {interval.stage for interval in published.intervals} >= {"open", "scan", "embed", "commit"}
    assert [interval.began for interval in published.intervals] == sorted(
        interval.began for interval in published.intervals
    )
    assert "no Parquet, Lance" in failed.summary["error"]
    assert published.cost == CostRecord(gpus=0, gpu_hours=0, gpu_hour_price=2.0, money=0)


def test_the_page_needs_nothing_else_and_escapes_what_is_foreign(given: Settings) -> None:
    (page,) = map(Page, pages(given))
    assert "script" not in page.tags
    links = [value for name, value in page.attributes if name in {"href", "src", "action", "data"}]
    assert links == ["data:,"]
    assert "url(" not in page.text
    assert "<script>alert(1)</script>\\x1b[2J" in page.text, "escaped for HTML and for terminals"
    assert page.tags.count("svg") >= 3


def test_no_text_of_a_document_is_in_a_report(given: Settings) -> None:
    folder = Path(given.index.uri) / "_docs" / "runs"
    written = "".join(path.read_text(encoding="utf-8") for path in folder.iterdir())
    assert not [text for _, text in words(30) if text in written]


def test_trends_go_back_thirty_runs(given: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = reports(given)
    folder = RunReports(given.index.uri, given.index.name)
    for day in range(10, 31):
        for hour in "06", "18":
            folder.put(first.model_copy(update={"began": f"2020-01-{day}T{hour}:00:00.000000+00:00"}), "")
    read: list[str] = []
    file = RunReport.from_file
    monkeypatch.setattr(RunReport, "from_file", lambda files, name: read.append(name) or file(files, name))
    run_here(given)
    assert len(read) == 30
    text = Page(pages(given)[-1]).text
    assert "The last 30 runs" in text
    assert text.count("published epoch 1") == 29, "and the run itself"


def test_a_mistyped_index_gets_no_folder(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    with pytest.raises(SettingsError):
        run_here(settings(tmp_path, model={"max_tokens": 9000}))
    assert not (tmp_path / "index").exists()


def test_a_caller_learns_where_the_report_of_a_failed_run_lies(given: Settings, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "corpus")
    journal = Journal()
    with pytest.raises(IndexerError):
        night.run(given, model(given), LocalCluster(), journal=journal)
    assert journal.report == str(pages(given)[-1])


def test_a_report_that_cannot_be_written_does_not_end_a_run(
    given: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise IndexerError("cannot write runs: No space left on device")

    monkeypatch.setattr(RunReports, "put", full)
    assert run_here(given)["report"] is None
    assert "the report of this run could not be written: cannot write runs" in capsys.readouterr().err


def test_a_fault_in_a_report_does_not_end_a_run(
    given: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty(*_: Any) -> str:
        raise KeyError("a text")

    monkeypatch.setattr("indexer.indexing.report.run_page", faulty)
    assert run_here(given)["status"] == "unchanged"
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "could not be written" in line)
    assert " WARNING the report of this run could not be written: internal error while writing it: KeyError" in line
    assert "a text" not in line


def test_an_older_report_lacks_keys_and_is_read(
    given: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a version would have written it that knew only how a run ended."""
    (path,) = (Path(given.index.uri) / "_docs" / "runs").glob("*.json")
    older = json.loads(path.read_text(encoding="utf-8"))
    older["summary"] = {"status": "published", "epoch": 1, "documents": 30}
    path.write_text(json.dumps(older), encoding="utf-8")
    with_metrics = given.run.model_copy(update={"metrics_file": tmp_path / "indexer.prom"})
    assert run_here(given.model_copy(update={"run": with_metrics}))["report"]
    assert "WARNING" not in capsys.readouterr().err
    assert (tmp_path / "indexer.prom").is_file()
    read, _ = reports(given)
    assert (read.summary["documents"], read.summary["tokens"], read.summary["stages"]) == (30, 0, {})


def test_a_damaged_report_is_passed_over(given: Settings) -> None:
    (path,) = (Path(given.index.uri) / "_docs" / "runs").glob("*.json")
    path.write_text(json.dumps({"index": "docs"}), encoding="utf-8")
    assert run_here(given)["status"] == "unchanged"
    assert len(reports(given)) == 1


def test_cost_and_losses_are_shown(given: Settings) -> None:
    (report,) = reports(given)
    dear = report.model_copy(
        update={
            "cost": CostRecord(gpus=8, gpu_hours=4.0, gpu_hour_price=2.5, money=10.0),
            "workers": ["a, GPU 0", "a, GPU 0", "b, GPU 1"],
            "losses": ["worker died: the machine is gone"],
            "summary": report.summary | {"fallbacks": ["the step loop runs, since a test says so"]},
        }
    )
    page = run_page(dear, [report])
    assert "10.00" in page
    assert "money at 2.5 per GPU-hour" in page
    assert '<td>a, GPU 0</td><td class="number">2</td>' in page
    assert "1 died:" in page
    assert "<li>the step loop runs, since a test says so</li>" in page
    assert "slower way" not in run_page(report, [report])


def test_a_run_costs_what_its_workers_held(given: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of the pool's GPUs from the first request on: machines come late, and are awaited."""
    monkeypatch.setattr(LocalPool, "used", GpuUse(gpus=4, seconds=1800.0, ready_seconds=900.0))
    write(tmp_path / "corpus" / "b.parquet", [("another", "one more text")])
    assert run_here(given)["ready_gpu_hours"] == 0.25
    assert reports(given)[-1].cost == CostRecord(gpus=4, gpu_hours=0.5, gpu_hour_price=2.0, money=1.0)
