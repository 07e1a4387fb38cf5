"""Tables on standard output: drawn on a terminal, plain columns in a log."""

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from indexer.progress import printable

PLAIN_WIDTH = 400
"""Columns of a log, which has no width: lines are not broken there."""

Cell = str | int | float | None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], marked: Sequence[int] = ()) -> None:
    """Prints a table.

    Args:
        columns: Names of the columns.
        rows: A cell per column; numbers stand to the right, ``None`` is empty.
        marked: Places of rows that need attention, red on a terminal.
    """
    terminal = sys.stdout.isatty()
    table = Table(box=SIMPLE_HEAD if terminal else None, pad_edge=False)
    for at, column in enumerate(columns):
        is_number = any(isinstance(row[at], int | float) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for place, row in enumerate(rows):
        # Text, since rich would read square brackets in an id or an error as markup.
        table.add_row(*(Text(_shown(cell)) for cell in row), style="red" if place in marked else None)
    Console(width=None if terminal else PLAIN_WIDTH, highlight=False).print(table)


def _shown(cell: Cell) -> str:
    """A cell as text: thousands with commas, control characters escaped."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return printable(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"  # noqa: PLR2004
