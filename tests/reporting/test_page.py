"""A week of nights, and the page of the last one in a browser."""

import shutil
from pathlib import Path

import pytest

from indexer.errors import IndexerError, RefusedError
from indexer.reporting.runs import RunReports
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from tests.support.browser import chromium, opened
from tests.support.fakes import run_here, settings, words, write

pytestmark = pytest.mark.heavy

LONG = "file://a/very/long/id/" + "without/a/place/to/break/it/" * 20


def week(root: Path) -> Settings:
    """Changes, a refused gate, a run that fails, a poor document, a quiet night."""
    write(root / "corpus" / "a.parquet", words(60))
    given = settings(root, run={"gpu_hour_price": 2.5})
    run_here(given)
    for seed in (1, 2):
        write(root / "corpus" / "a.parquet", [*words(5 * seed, seed=seed), *words(60)[5 * seed :], (LONG, "")])
        run_here(given)
    write(root / "corpus" / "a.parquet", words(10))
    with pytest.raises(RefusedError):
        run_here(given)
    shutil.move(root / "corpus", root / "elsewhere")
    with pytest.raises(IndexerError):
        run_here(given)
    shutil.move(root / "elsewhere", root / "corpus")
    write(root / "corpus" / "a.parquet", [*words(60, seed=3), (LONG, "")])
    run_here(given)
    run_here(given)
    return given


def test_a_week_of_nights_is_seen(tmp_path: Path) -> None:
    given = week(tmp_path)
    found = RunReports(given.index.uri, given.index.name).latest()
    statuses = [report.status for report in found]
    assert statuses == ["published"] * 3 + ["refused", "failed", "published", "unchanged"]
    assert len(ControlStore(given.index.uri, "docs").epoch_numbers()) == 4
    pages = sorted((tmp_path / "index" / "_docs" / "runs").glob("*.html"))
    with chromium() as browser:
        for width in (1200, 500):
            with opened(pages[-2], width, browser) as page:
                headings = page.locator("h2").all_inner_texts()
                rows = page.locator("details tbody tr").count()
                charts = [chart.bounding_box() for chart in page.locator("figure svg.chart").all()]
                broad = page.evaluate("document.documentElement.scrollWidth")
                title = page.title()
        with opened(pages[3], browser=browser) as page:
            refused = page.locator(".error").inner_text(), page.locator("tr.bad", has_text="refuses").count()
    assert headings == [
        "The last 6 runs",
        "Documents",
        "Stages",
        "Gates",
        "Quarantine",
        "Workers",
        "Made with",
        "Tables",
    ]
    assert (rows, title) == (6, "docs: published epoch 4")
    assert all(box["width"] > 300 and box["height"] > 80 for box in charts)
    assert broad <= 500, "nothing stands over the edge"
    assert "gates.max_removed is 0.8" in refused[0]
    assert refused[1] == 1
