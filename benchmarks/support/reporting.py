"""Writes results: one JSON document per run, a Markdown table, charts. Compares ratios with their floors."""

import json
import statistics
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.workload import Outcome

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

    def describe(self, items_per_token: float, flops_per_token: float, limit: float) -> dict[str, Any]:
        """JSON-ready figures.

        Args:
            items_per_token: Documents or pairs per token.
            flops_per_token: The model's FLOPs per token on these lengths.
            limit: FLOPs per second of the machine.
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
            "mfu": round(rate * flops_per_token / limit, 4),
            "start_seconds": round(statistics.median(outcome.start_seconds for outcome in self.outcomes), 1),
            "stages": {name: round(seconds, 3) for name, seconds in last.stages.items()},
            **({"reused_tokens": round(last.reused_tokens / last.tokens, 4)} if last.reused_tokens else {}),
        }


def ratios(contenders: Mapping[str, Contender], ours: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Ratios of medians, by ``a/b``; a pair with an absent contender is left out."""
    found = {}
    for left, right in ours:
        if contenders[left].outcomes and contenders[right].outcomes:
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
        lines += ["", "Ratios: " + ", ".join(f"{pair} {value}" for pair, value in run["ratios"].items())]
    return "\n".join(lines) + "\n"


def _row(contender: str, figures: Mapping[str, Any]) -> str:
    """One contender's row of the table."""
    if "absent" in figures:
        return f"| {contender} | absent: {figures['absent']} | | | | |"
    return (
        f"| {contender} | {figures['tokens_per_second']:,} | {figures['spread']:.1%} | "
        f"{figures['items_per_second']:,} | {figures['mfu']:.1%} | {figures['start_seconds']:.0f} s |"
    )


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
