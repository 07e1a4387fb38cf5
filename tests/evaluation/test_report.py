"""The page of an evaluation, made of a summary, without an evaluation."""

from pathlib import Path
from typing import Any

import polars as pl

from indexer.evaluation import report
from indexer.evaluation.report import Details, Lost
from tests.support.browser import opened

HOSTILE = "<b>docs</b>\x1b[2J"


def configuration(width: int, kind: str) -> dict[str, Any]:
    """One row, whose quality is the same for every kind."""
    return {
        "name": f"{width} {kind}",
        "width": width,
        "nDCG@10": 0.7 + width / 5000,
        "recall@100": 0.9,
        "MRR@10": 0.6,
        "difference": {"mean": 0.0, "low": -0.01, "high": 0.01},
        "beyond_chance": False,
        "recall_at_10": None,
        "table_bytes": width * 4000,
        "index_bytes": 0,
        "p50_ms": 2.0,
        "p95_ms": 3.0,
        "queries_per_second": 500.0,
        "reranked": False,
    }


SUMMARY: dict[str, Any] = {
    "epoch": 3,
    "index": HOSTILE,
    "model": "Qwen/Qwen3-Embedding-0.6B",
    "published": "2026-11-26T02:10:00+00:00",
    "rows": 6683,
    "asked": "known items",
    "queries": 300,
    "judgements": 300,
    "notes": {},
    "configurations": [
        configuration(width, kind) for kind in ("float32 exact", "float16 exact") for width in (384, 96)
    ],
    "absent": {},
    "recommendation": {
        "configuration": "96 float32 exact",
        "reason": "the cheapest",
        "front": ["96 float32 exact", "384 float32 exact"],
        "toml": '[index]\nwidths = [96]\nname = "x"\n',
    },
}

DETAILS = Details(pl.DataFrame(), {"96 float32 exact": [Lost("q<1>", f"who is {HOSTILE}?", 1.0, 0.2)]})


def test_the_page_says_of_what_it_is_and_escapes_what_is_foreign(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report.page(SUMMARY, DETAILS), encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert "<b>docs" not in text
    assert "\x1b" not in text
    with opened(path) as page:
        shown = page.locator("body").inner_text()
        toml = page.locator("pre").inner_text()
        names = page.locator("table tbody tr td:first-child").all_inner_texts()
        places = [chart.bounding_box() for chart in page.locator("figure svg").all()]
    assert "Qwen/Qwen3-Embedding-0.6B, epoch of 2026-11-26T02:10:00+00:00, 6,683 rows, queries: known items" in shown
    assert toml == SUMMARY["recommendation"]["toml"].rstrip()
    assert names == [row["name"] for row in SUMMARY["configurations"]]
    assert len({box["x"] for box in places}) == 2, "two columns where there is room"


def test_the_same_is_said_in_markdown() -> None:
    assert "6,683 rows, queries: known items" in report.markdown(SUMMARY)
