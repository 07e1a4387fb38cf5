"""Writes results: one JSON document per run, a Markdown table, charts. Compares ratios with their floors."""

import json
import re
import statistics
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support import machine
from benchmarks.support.workload import Outcome

MISSING = re.compile(r"No module named '([\w-]+)")
"""What Python says where a package is not installed."""

INSTALL = {
    "lance_ray": "pip install lance-ray",
    "sentence_transformers": "pip install sentence-transformers",
    "text-embeddings-router": "cargo install --path router in a checkout of huggingface/text-embeddings-inference",
    "vllm": "pip install '.[cuda]', or '.[cpu]' without a GPU",
}
"""How to install what is not called like its module."""

ABSENT = {"absent": "not measured"}

FLOORS = Path(__file__).parents[1] / "floors.toml"


@dataclass(frozen=True)
class Contender:
    """Results of a contender in all rounds.

    Attributes:
        outcomes: One per round.
        failure: Why there are no outcomes: not installed, or the error.
    """

    outcomes: Sequence[Outcome]
    failure: str = ""

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each round."""
        return [outcome.tokens / outcome.seconds for outcome in self.outcomes]

    @property
    def median(self) -> float:
        """Median of the rates."""
        return statistics.median(self.rates)

    def describe(self, items_per_token: float, flops_per_token: float | None, limit: float | None) -> dict[str, Any]:
        """JSON-ready figures.

        Args:
            items_per_token: Documents or pairs per token.
            flops_per_token: The model's FLOPs per token on these lengths, ``None`` if not known.
            limit: FLOPs per second of the machine in the model's dtype, likewise.
        """
        if not self.outcomes:
            return {"absent": self.failure}
        last = self.outcomes[-1]
        rate = self.median
        return {
            "tokens_per_second": round(rate),
            "rounds": [round(rate) for rate in self.rates],
            "spread": round((max(self.rates) - min(self.rates)) / rate, 3),
            "items_per_second": round(rate * items_per_token, 1),
            "mfu": round(rate * flops_per_token / limit, 4) if flops_per_token and limit else None,
            "start_seconds": round(statistics.median(outcome.start_seconds for outcome in self.outcomes), 1),
            "stages": {name: round(seconds, 3) for name, seconds in last.stages.items()},
            **({"failure": self.failure} if self.failure else {}),
            **({"reused_tokens": round(last.reused_tokens / last.tokens, 4)} if last.reused_tokens else {}),
        }


def how_to_install(failure: str) -> str:
    """A failure; where a package is missing, with the command that installs it."""
    found = MISSING.search(failure)
    if found is None:
        return failure
    return f"not installed: {INSTALL.get(found[1], f'pip install {found[1]}')}"


def whole(run: Mapping[str, Any], documents: int, shares: Mapping[str, int], price: float | None) -> dict[str, Any]:
    """What a whole corpus takes, by contender, from the rates on its sample.

    Args:
        run: Figures of the sample.
        documents: Documents of the corpus.
        shares: GPUs that each contender uses, 1 without GPUs; others are left out.
        price: Money for an hour of one GPU, or of the machine where it has none.

    Returns:
        Documents, tokens, GPUs, and for each contender rates per GPU, hours of GPUs, hours on this machine, money. A
        contender on one GPU counts as if it ran on every one beside itself.
    """
    gpus = machine.gpus()
    shown = {name: run["contenders"][name] for name in shares if "absent" not in run["contenders"].get(name, ABSENT)}
    tokens = round(documents * run["tokens"] / run["items"])
    rows = {}
    for name, figures in shown.items():
        rate = figures["tokens_per_second"] / shares[name]
        hours = tokens / rate / 3600
        rows[name] = {
            "tokens_per_second": round(rate),
            "documents_per_second": round(rate * run["items"] / run["tokens"], 1),
            "device_hours": round(hours, 3),
            "hours": round(hours / max(1, gpus), 3),
            "money": None if price is None else round(hours * price, 2),
        }
    return {"documents": documents, "tokens": tokens, "gpus": gpus, "price": price, "contenders": rows}


def ratios(contenders: Mapping[str, Contender], ours: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Ratios of medians, by ``a/b``; a pair with an absent contender is left out."""
    found = {}
    for left, right in ours:
        if all(name in contenders and contenders[name].outcomes for name in (left, right)):
            found[f"{left}/{right}"] = round(contenders[left].median / contenders[right].median, 3)
    return found


def below_floors(table: str, measured: Mapping[str, float], left_out: Set[str] = frozenset()) -> list[str]:
    """Figures below their least accepted value in ``floors.toml``, or that have one and were not measured.

    Args:
        table: Name of the table in ``floors.toml``.
        measured: Figures by name.
        left_out: Contenders that were not requested; ratios to them may be missing.
    """
    floors = tomllib.loads(FLOORS.read_text(encoding="utf-8")).get(table, {})
    return [
        f"{table}: {name} is {measured.get(name, 'not measured')}, least accepted {least}"
        for name, least in floors.items()
        if name.rpartition("/")[2] not in left_out and measured.get(name, 0) < least
    ]


def where(result: Mapping[str, Any]) -> str:
    """The machine, commit and versions of a result, in a sentence without its full stop."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores; commit {machine['commit']}; {versions}"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table with the keys of the first row as its columns."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return lines + [f"| {' | '.join(str(row[column]) for column in columns)} |" for row in rows]


def markdown(result: Mapping[str, Any]) -> str:
    """A result of several contenders as tables."""
    lines = [
        f"{where(result)}. Model {result['model']} in {result['dtype']}, {result['rounds']} rounds"
        ". Large matrix products: "
        + ", ".join(f"{rate / 1e12:.2f} TFLOP/s in {dtype}" for dtype, rate in result["limit"].items())
        + ".",
    ]
    for name, run in result["runs"].items():
        lines += ["", f"**{name}**: {run['items']:,} items, {run['tokens']:,} tokens", ""]
        lines += [
            "| contender | tokens/s | spread | items/s | MFU | start-up |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_row(contender, figures) for contender, figures in run["contenders"].items()]
        lines += _whole_table(run["whole"]) if "whole" in run else []
        lines += ["", "Ratios: " + ", ".join(f"{pair} {value}" for pair, value in run["ratios"].items())]
    return "\n".join(lines) + "\n"


def _row(contender: str, figures: Mapping[str, Any]) -> str:
    """One contender's row of the table."""
    if "absent" in figures:
        return f"| {contender} | absent: {figures['absent']} | | | | |"
    mfu = "" if figures["mfu"] is None else f"{figures['mfu']:.1%}"
    failed = f"; then {figures['failure']}" if "failure" in figures else ""
    return (
        f"| {contender}{failed} | {figures['tokens_per_second']:,} | {figures['spread']:.1%} | "
        f"{figures['items_per_second']:,} | {mfu} | {figures['start_seconds']:.0f} s |"
    )


def _whole_table(found: Mapping[str, Any]) -> list[str]:
    """What the whole corpus takes, as lines of a table."""
    device = "GPU" if found["gpus"] else "machine"
    about = (
        f"All {found['documents']:,} documents, about {found['tokens']:,} tokens, on {max(1, found['gpus'])} {device}"
    )
    lines = ["", f"{about}, by the rates above:", ""]
    header = [f"tokens/s per {device}", f"documents/s per {device}", f"{device}-hours", "hours here"]
    lines += [f"| contender | {' | '.join(header)} | money |", "| --- |" + " ---: |" * 5]
    for name, row in found["contenders"].items():
        money = "" if row["money"] is None else f"{row['money']:,.2f}"
        rates = f"{row['tokens_per_second']:,} | {row['documents_per_second']:,}"
        lines.append(f"| {name} | {rates} | {row['device_hours']:,} | {row['hours']:,} | {money} |")
    return lines


def write(folder: Path, name: str, result: Mapping[str, Any], text: str) -> None:
    """Writes ``<name>.json``, ``<name>.md`` and, if matplotlib is installed, the charts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    try:
        from benchmarks.support import charts
    except ModuleNotFoundError:
        print("no charts: matplotlib is not installed (extra bench)")
        return
    charts.draw(folder, name, result)
