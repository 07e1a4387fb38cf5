"""Charts of an evaluation as SVG: quality against bytes, quality by width, latency."""

import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from indexer.evaluation.measures import NDCG

MEGABYTE = 1e6

LABEL_POINTS = 7
"""Size of a name in a chart."""

FIRST, SECOND, CHOSEN, REST = "#1f6f8b", "#c8773a", "#b3362c", "#9aa5ab"


def svg(rows: Sequence[Mapping[str, Any]], chosen: str, front: Collection[str]) -> Iterator[str]:
    """Draws the charts.

    Args:
        rows: The configurations as the summary has them.
        chosen: Name of the recommended one.
        front: Names of those among which it was chosen.

    Yields:
        SVG elements that can stand in a page: no identifiers that two of them share, text as text.
    """
    # Not above: it takes a second, and only the report draws.
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.use("Agg")
    kinds: dict[Callable[..., None], str] = {
        partial(_against_bytes, front=front): "table_bytes",
        _by_width: NDCG,
        _latencies: "p50_ms",
    }
    draw = [chart for chart, key in kinds.items() if any(row[key] is not None for row in rows)]
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        for number, chart in enumerate(draw):
            figure, axis = pyplot.subplots(figsize=(6.4, 4.2))
            chart(axis, rows, chosen)
            axis.spines[["top", "right"]].set_visible(False)
            figure.tight_layout()
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
            yield _inline(drawn.getvalue(), f"chart{number}")


def _against_bytes(axis: Any, rows: Sequence[Mapping[str, Any]], chosen: str, front: Collection[str]) -> None:
    """Quality against size, a point per configuration, and the front."""
    for row in rows:
        colour = CHOSEN if row["name"] == chosen else FIRST if row["name"] in front else REST
        axis.scatter(_bytes(row) / MEGABYTE, row[NDCG], color=colour, s=28, zorder=3)
    best = sorted((row for row in rows if row["name"] in front), key=_bytes)
    axis.plot([_bytes(row) / MEGABYTE for row in best], [row[NDCG] for row in best], color=FIRST, lw=1, zorder=2)
    axis.margins(x=0.15, y=0.12)
    axis.set_title("Quality against bytes: what is surely best for its size; red is recommended")
    axis.set_xlabel("MB of tables and indices")
    axis.set_ylabel(NDCG)
    _name_points(axis, {row["name"]: (_bytes(row) / MEGABYTE, row[NDCG]) for row in best})


def _name_points(axis: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes names beside points, each as near as it covers no other name and stays within the figure's sides."""
    axis.figure.tight_layout()  # the places of points have to be final
    placed: list[Any] = []
    for name, point in points.items():
        label = axis.annotate(name, point, (4, 0), textcoords="offset points", va="center", fontsize=LABEL_POINTS)
        label.set_in_layout(False)
        if label.get_window_extent().x1 > axis.figure.bbox.x1:
            label.set(ha="right", x=-4)
        # Below, above, further below, and so on.
        for step in count(2):
            label.set(y=(-1) ** (step + 1) * (step // 2) * LABEL_POINTS)
            if not any(label.get_window_extent().overlaps(other) for other in placed):
                break
        placed.append(label.get_window_extent())


def _by_width(axis: Any, rows: Sequence[Mapping[str, Any]], chosen: str) -> None:  # noqa: ARG001
    """Quality by width, a line per kind of configuration."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["name"].partition(" ")[2], []).append(row)
    for at, (kind, members) in enumerate(kinds.items()):
        ordered = sorted(members, key=lambda row: row["width"])
        # Later lines are thinner: none is hidden under another that has the same values.
        thick = 1 + 5 * (len(kinds) - 1 - at) / len(kinds)
        values = [row[NDCG] for row in ordered]
        axis.plot([row["width"] for row in ordered], values, marker="o", ms=thick + 3, lw=thick, label=kind)
    axis.set_xticks(sorted({row["width"] for row in rows}))
    axis.set_title("Quality by the width that is searched")
    axis.set_xlabel("components")
    axis.set_ylabel(NDCG)
    axis.legend(fontsize=6.5, frameon=False, ncols=2)


def _latencies(axis: Any, rows: Sequence[Mapping[str, Any]], chosen: str) -> None:
    """Median and 95th percentile of every configuration that is not reranked."""
    timed = [row for row in rows if not row["reranked"]]  # a reranker takes a hundred times as long
    places = range(len(timed))
    axis.barh(places, [row["p95_ms"] for row in timed], color=REST, label="p95")
    colours = [CHOSEN if row["name"] == chosen else FIRST for row in timed]
    axis.barh(places, [row["p50_ms"] for row in timed], color=colours, height=0.45, label="p50")
    axis.set_yticks(places, [row["name"] for row in timed], fontsize=6.5)
    axis.invert_yaxis()
    axis.set_title("A search for ten results: p50 (narrow bar) and p95 (wide)")
    axis.set_xlabel("milliseconds")


def _bytes(row: Mapping[str, Any]) -> int:
    return int(row["table_bytes"] + row["index_bytes"])


def _inline(drawn: str, prefix: str) -> str:
    """The element without its XML prologue, with identifiers that no other chart has."""
    element = drawn[drawn.index("<svg") :]
    element = re.sub(r'\bid="', f'id="{prefix}-', element)
    return re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{prefix}-", element)
