"""The page of an evaluation, made of a summary, without an evaluation."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from indexer.evaluation import charts, report
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
        "front": [f"{width} {kind}" for kind in ("float32 exact", "float16 exact") for width in (96, 384)],
        "toml": '[index]\nwidths = [96]\nname = "x"\n',
    },
}

TOLD = "Qwen/Qwen3-Embedding-0.6B, 6,683 rows, queries: known items"

DETAILS = Details(pl.DataFrame(), {"96 float32 exact": [Lost("q<1>", f"who is {HOSTILE}?", 1.0, 0.2)]})


@pytest.mark.heavy
def test_the_page_says_of_what_it_is_and_escapes_what_is_foreign(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report.page(SUMMARY, DETAILS), encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert "<b>docs" not in text
    assert "\x1b" not in text
    with opened(path) as page:
        headings = [page.title(), page.locator("h1").inner_text()]
        toml = page.locator("pre").inner_text()
        names = page.locator("table tbody tr td:first-child").all_inner_texts()
        places = [chart.bounding_box() for chart in page.locator("figure svg").all()]
        labels = [
            label.bounding_box()
            for label in page.locator("figure svg").first.locator("text").all()
            if label.inner_html().strip() in names
        ]
    for heading in headings:
        assert heading.endswith(f", epoch 3 of 2026-11-26: {TOLD}")
    assert toml == SUMMARY["recommendation"]["toml"].rstrip()
    assert names == [row["name"] for row in SUMMARY["configurations"]]
    assert len({box["x"] for box in places}) == 2, "two columns where there is room"
    assert len(labels) == len(names)
    assert not [pair for pair in combinations(labels, 2) if _overlap(*pair)], "points at one place have names at two"


def _overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "width"), ("y", "height"))
    )


def test_no_line_hides_another() -> None:
    """Lines of the same values are drawn over each other: the later one is thinner and has another colour."""
    _, by_width, _ = charts.svg(SUMMARY["configurations"], "96 float32 exact", [])
    drawn = re.findall(
        r'<path d="([^"]+)" clip-path="[^"]+" style="fill: none; stroke: (#\w+);(?: stroke-width: ([\d.]+))?', by_width
    )
    (_, first, thick), (_, second, thin) = drawn
    assert drawn[0][0] == drawn[1][0], "the same values"
    assert first != second
    # Without a width a stroke has a width of one.
    assert float(thin or 1) <= float(thick) - 2


def test_the_same_is_said_in_markdown() -> None:
    assert TOLD in report.markdown(SUMMARY).splitlines()[0]
    local = SUMMARY | {"model": "/models/Qwen/Qwen3-Embedding-0.6B", "title": "Adaptation of docs, epoch 3"}
    assert report.markdown(local).startswith(f"# Adaptation of docs, epoch 3 of 2026-11-26: {TOLD}\n")
