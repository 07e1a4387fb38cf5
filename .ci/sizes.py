"""Prints lines per file, function and class, median and largest, and fails above the limits: ``make sizes``."""

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("indexer", "jobs", "benchmarks", "tests")

LIMITS = {"file": 400, "function": 50, "class": 200}
"""Most lines, docstrings, comments and blank lines included."""

SHOWN = 3
"""The largest that are named."""


@dataclass(frozen=True, order=True)
class Part:
    """A file, function or class.

    Attributes:
        lines: Its lines.
        name: Where it is.
    """

    lines: int
    name: str


def main() -> None:
    """Measures, prints, and exits with 1 where something is too large."""
    folders = sys.argv[1:] or FOLDERS
    parts: dict[str, list[Part]] = {kind: [] for kind in LIMITS}
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts["file"].append(Part(len(text.splitlines()), str(path)))
        for kind, part in _definitions(ast.parse(text), str(path)):
            parts[kind].append(part)
    for kind, found in parts.items():
        lines = [part.lines for part in found]
        print(
            f"{kind:<9}{len(found):>6} in all {sum(lines):>8,} lines, median {statistics.median(lines):g}, "
            f"90 % at most {sorted(lines)[len(lines) * 9 // 10]}, limit {LIMITS[kind]}"
        )
        for part in sorted(found, reverse=True)[:SHOWN]:
            print(f"{part.lines:>15} {part.name}")
    large = [part for kind, found in parts.items() for part in found if part.lines > LIMITS[kind]]
    for part in large:
        print(f"too large: {part.name} has {part.lines} lines", file=sys.stderr)
    sys.exit(bool(large))


def _definitions(tree: ast.Module, path: str) -> Iterator[tuple[str, Part]]:
    """Functions, methods and classes with their decorators, those inside others too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            lines = (node.end_lineno or first) - first + 1
            yield ("class" if isinstance(node, ast.ClassDef) else "function"), Part(lines, f"{path}:{node.name}")


if __name__ == "__main__":
    main()
