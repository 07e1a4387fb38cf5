"""The report of an evaluation: JSON, Markdown, Parquet of every query, and one HTML page that needs nothing else."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import polars as pl
from markupsafe import Markup, escape

from indexer.evaluation import charts
from indexer.evaluation.measures import NDCG, Difference
from indexer.job_settings import JobSettings
from indexer.reporting.page import render
from indexer.storage.put_once import PutOnceFolder

FINISHED = "report.json"
"""Written last: a folder that has it is complete."""

WORST = 5
"""Queries listed of each configuration that lost most."""

COLUMNS: Mapping[str, str] = {
    "configuration": "name",
    "nDCG@10": "nDCG@10",
    "difference (95 %)": "difference",
    "recall@100": "recall@100",
    "MRR@10": "MRR@10",
    "ANN recall@10": "recall_at_10",
    "tables": "table_bytes",
    "indices": "index_bytes",
    "p50": "p50_ms",
    "p95": "p95_ms",
    "queries/s": "queries_per_second",
}
"""Columns of the table of configurations, with their keys in the summary."""

LEGEND = (
    "Differences are of nDCG@10 from the first configuration, with their 95 % confidence interval (paired bootstrap "
    "over queries); * marks those beyond chance. Latency is of single searches for ten results, one after the other, "
    "and of reranking the candidates of ten queries; queries/s with one query per core at once."
)


@dataclass(frozen=True)
class Lost:
    """A query that a configuration answers worse than the reference.

    Attributes:
        query_id: Its id.
        text: The query.
        before: nDCG@10 of the reference.
        after: Of the configuration.
    """

    query_id: str
    text: str
    before: float
    after: float


@dataclass(frozen=True)
class Details:
    """What is not in the summary.

    Attributes:
        queries: Measures of every query: ``configuration``, ``query_id`` and the measures.
        worst: The queries that lost most, by configuration.
    """

    queries: pl.DataFrame
    worst: Mapping[str, Sequence[Lost]]


def identity(settings: JobSettings, inputs: Sequence[str]) -> str:
    """Eight hexadecimal digits that differ for evaluations, or adaptations, that do.

    Args:
        settings: The settings.
        inputs: What tells the content of the files and models that the settings name.
    """
    given = settings.model_dump_json(exclude={"output", "cluster", "run"})
    return hashlib.blake2b("\0".join([given, *inputs]).encode(), digest_size=4).hexdigest()


def finished(folder: PutOnceFolder) -> dict[str, Any] | None:
    """Summary of the finished run in a folder, which wrote :data:`FINISHED`."""
    if FINISHED not in set(folder.names("")):
        return None
    return dict(json.loads(folder.get(FINISHED)))


def write(folder: PutOnceFolder, summary: Mapping[str, Any], details: Details) -> None:
    """Writes ``queries.parquet``, ``report.html``, ``report.md``, ``recommended.toml`` and, last, ``report.json``."""
    parquet = io.BytesIO()
    details.queries.write_parquet(parquet)
    files = {
        "queries.parquet": parquet.getvalue(),
        "report.html": page(summary, details).encode(),
        "report.md": markdown(summary).encode(),
        "recommended.toml": summary["recommendation"]["toml"].encode(),
        FINISHED: json.dumps(summary, indent=2).encode(),
    }
    for name, content in files.items():
        folder.delete(name)  # what a run left that was killed while it wrote
        folder.put(name, content)


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary as tables."""
    lines = [
        f"# {_title(summary)}",
        "",
        _counts(summary),
        "",
        f"**{_heading(summary)}:** {_recommended(summary)}",
        "",
    ]
    if summary["recommendation"]["toml"]:
        lines += ["```toml", summary["recommendation"]["toml"].rstrip(), "```", ""]
    names = _columns(summary["configurations"])
    lines += ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    lines += ["| " + " | ".join(_cells(row, names)) + " |" for row in summary["configurations"]]
    lines += [f"\n{name}: absent: {reason}" for name, reason in summary["absent"].items()]
    return "\n".join(lines) + "\n"


def page(summary: Mapping[str, Any], details: Details) -> str:
    """The whole report as one HTML page: no script, and nothing that is fetched from anywhere."""
    rows = summary["configurations"]
    chosen = summary["recommendation"]["configuration"]
    names = _columns(rows)
    return render(
        "evaluation.html",
        title=_title(summary),
        heading=_heading(summary),
        counts=_counts(summary),
        recommended=_recommended(summary),
        toml=Markup(escape(summary["recommendation"]["toml"].rstrip())),  # noqa: S704  # lines stay lines
        charts=list(map(Markup, charts.svg(rows, chosen, summary["recommendation"]["front"]))),  # escaped by matplotlib
        columns=names,
        rows=[(row["name"], _cells(row, names)[1:]) for row in rows],
        chosen=chosen,
        legend=summary.get("legend", LEGEND),
        absent=summary["absent"],
        worst=details.worst,
    )


def lost(before: pl.DataFrame, after: pl.DataFrame, texts: Mapping[str, str]) -> list[Lost]:
    """The queries that lose most nDCG@10 between two measurements.

    Args:
        before: Measures of the reference, as :func:`indexer.evaluation.measures.per_query` gives them.
        after: Measures of another configuration.
        texts: The queries by id.

    Returns:
        At most :data:`WORST`, those that lose most first.
    """
    joined = after.join(before, on="query_id", suffix=" before", maintain_order="left")
    fallen = joined.with_columns((pl.col(NDCG) - pl.col(f"{NDCG} before")).alias("change")).filter(pl.col("change") < 0)
    rows = fallen.sort("change", "query_id").head(WORST).iter_rows(named=True)
    return [Lost(row["query_id"], texts[row["query_id"]], row[f"{NDCG} before"], row[NDCG]) for row in rows]


def _heading(summary: Mapping[str, Any]) -> str:
    return str(summary.get("heading", "Recommended"))


def _title(summary: Mapping[str, Any]) -> str:
    """What was judged: index, epoch and its date, model, rows, and the kind of queries."""
    what = summary.get("title", f"Evaluation of {summary['index']}, epoch {summary['epoch']}")
    # Of a local directory the last two names, as those of a hub's id.
    model = "/".join(PurePath(summary["model"]).parts[-2:])
    date, rows = summary["published"][:10], summary["rows"]
    return f"{what} of {date}: {model}, {rows:,} rows, queries: {summary['asked']}"


def _counts(summary: Mapping[str, Any]) -> str:
    notes = "".join(f"; {count:,} {name}" for name, count in summary["notes"].items())
    return f"{summary['queries']:,} queries, {summary['judgements']:,} judgements{notes}"


def _recommended(summary: Mapping[str, Any]) -> str:
    found = summary["recommendation"]
    return f"{found['configuration']}: {found['reason']}."


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns in which some row has a value."""
    return [name for name, key in COLUMNS.items() if any(_cell(key, row) for row in rows)]


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [_cell(COLUMNS[name], row) for name in names]


def _cell(key: str, row: Mapping[str, Any]) -> str:
    """A value as the page's table shows it."""
    value = row[key]
    if value is None:
        return ""
    if key == "difference":
        return f"{Difference(**value)}" + "*" * row["beyond_chance"]
    formats = {"table_bytes": "{} MB", "index_bytes": "{} MB", "p50_ms": "{:.1f} ms", "p95_ms": "{:.1f} ms"}
    if key.endswith("_bytes"):
        value = f"{value / 1e6:.2f}"
    if key in formats:
        return formats[key].format(value)
    return f"{value:,.1f}" if key == "queries_per_second" else value if isinstance(value, str) else f"{value:.4f}"
