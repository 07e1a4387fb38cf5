"""SQL filters on table columns; the only place that makes SQL."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def one_of(column: str, values: Iterable[str]) -> str:
    """Filter for the rows whose column has one of the values."""
    return f"{column} IN ({', '.join(map(_quoted, values))})"


def between(column: str, low: str | None, high: str | None) -> str | None:
    """Filter for ``low <= column < high``. A bound of ``None`` is left out; without bounds there is no filter."""
    bounds = [] if low is None else [f"{column} >= {_quoted(low)}"]
    bounds += [] if high is None else [f"{column} < {_quoted(high)}"]
    return " AND ".join(bounds) or None


def _quoted(value: str) -> str:
    """SQL string literal. A quote inside is doubled; no other character has a special meaning."""
    return "'" + value.replace("'", "''") + "'"
