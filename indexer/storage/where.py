"""A user's SQL condition with decimals and dates as people write them.

Lance compares a decimal with no number that has a point, and a date or a time with no text. Here such literals get the
type of the column that they are compared with: ``price < 2.5``, ``day >= '2024-03-01'``, ``day >= 2024-03-01``.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import pyarrow as pa
from pyarrow import types

from indexer.errors import SettingsError
from indexer.storage import instants
from indexer.storage.filters import LARGEST_DECIMAL, OFFSET, Condition, integers, literal, one_condition

TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<string>'(?:[^']|'')*')"
    r"|(?P<name>`[^`]*`|\"[^\"]*\"|[^\W\d]\w*)"
    r"|(?P<day>\d{4}-\d{2}-\d{2}(?!\d))"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<comparison><=|>=|<>|!=|==|=|<|>)"
    r"|(?P<other>.)",
    re.DOTALL,
)
"""SQL as far as comparisons go."""

LITERALS = frozenset({"string", "day", "number"})

UP = {"<": True, ">=": True, ">": False, "<=": False}
"""Whether the next greater value of a column stands for one between two of them, by what comes before it."""

UP_BEFORE = {">": True, "<=": True, "<": False, ">=": False}
"""The same by what comes after it."""


@dataclass
class _Token:
    """A part of a condition."""

    kind: str
    text: str

    @property
    def word(self) -> str:
        """A keyword in capitals, or the character."""
        return self.text.upper()


def condition(where: str, table: pa.Schema) -> Condition:
    """One condition whose literals have the types of the columns that they are compared with.

    Args:
        where: SQL condition; one that went through here before stays as it is.
        table: Schema of the table.

    Returns:
        The condition in parentheses; other comparisons are as they were.

    Raises:
        SettingsError: It is more or less than one condition, or a literal is no date or time where it has to be one.
    """
    if isinstance(where, Condition):
        return where
    tokens = [_Token(str(found.lastgroup), found.group()) for found in TOKEN.finditer(one_condition(where))]
    parts = [token for token in tokens if token.kind != "space"]
    for at, token in enumerate(parts):
        name = token.text.strip('`"') if token.kind == "name" else ""
        if name in table.names:
            for found, up in _compared(parts, at):
                found.text = _written(found, name, table.field(name).type, up=up)
    return Condition("".join(token.text for token in tokens))


def names(where: str) -> set[str]:
    """Words of a condition that may be names of columns."""
    found = (token for token in TOKEN.finditer(where) if token.lastgroup == "name")
    return {token.group().strip('`"') for token in found}


def _compared(parts: Sequence[_Token], at: int) -> Iterator[tuple[_Token, bool | None]]:
    """Literals that the column at a place is compared with, and whether the next greater value stands for each."""
    if at > 1 and parts[at - 1].kind == "comparison" and parts[at - 2].kind in LITERALS:
        yield parts[at - 2], UP_BEFORE.get(parts[at - 1].text)
    rest = parts[at + 1 :]
    if rest and rest[0].word == "NOT":
        rest = rest[1:]
    if not rest:
        return
    if rest[0].kind == "comparison":
        yield from ((token, UP.get(rest[0].text)) for token in _first_literal(rest[1:]))
    elif rest[0].word == "BETWEEN":
        ends = next((place for place, token in enumerate(rest) if token.word == "AND"), len(rest))
        yield from ((token, True) for token in _first_literal(rest[1:ends]))
        yield from ((token, False) for token in _first_literal(rest[ends + 1 :]))
    elif rest[0].word == "IN":
        yield from ((token, None) for token in _listed(rest[1:]))


def _listed(parts: Sequence[_Token]) -> Iterator[_Token]:
    """Literals that stand in a list by themselves, not within a call."""
    depth = 0
    for place, token in enumerate(parts):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth < 1:
            return
        if depth == 1 and token.text in ("(", ","):
            yield from _first_literal(parts[place + 1 :])


def _first_literal(parts: Sequence[_Token]) -> Iterator[_Token]:
    """The literal that the parts begin with, after a sign."""
    place = 1 if parts and parts[0].text in ("-", "+") else 0
    yield from (token for token in parts[place : place + 1] if token.kind in LITERALS)


def _written(token: _Token, name: str, kind: pa.DataType, *, up: bool | None) -> str:
    """A literal with the type of its column."""
    text = token.text.strip("'")
    if types.is_date(kind) or types.is_timestamp(kind):
        try:
            return literal(_unit(text, kind, up=up) if types.is_timestamp(kind) else text, kind)
        except LookupError:
            raise SettingsError(f"the time zone of column {name}, {kind}, is unknown here: {OFFSET}") from None
        except ValueError:
            form = "2024-03-01" if types.is_date(kind) else "2024-03-01 or 2024-03-01 18:30"
            raise SettingsError(f"column {name} is of type {kind}, and {token.text} is none: write {form}") from None
    if types.is_decimal(kind) or (types.is_integer(kind) and token.kind == "number"):
        return _number(text, token.text)
    return token.text


def _unit(text: str, kind: pa.TimestampType, *, up: bool | None) -> int:
    """The unit of a column that compares with all rows as a moment does."""
    count = instants.count(text, kind)
    least, most = integers(kind)
    if up is None and count != int(count):
        return most  # which no row has, as no row has the moment
    return min(max(math.ceil(count) if up else math.floor(count), least), most)


def _number(text: str, otherwise: str) -> str:
    """A number with all its digits in SQL; Lance would make a double of it, which it compares with doubles only."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", text) or text.isdigit():
        return otherwise
    plain = f"{Decimal(text):f}"
    whole, _, fraction = plain.lstrip("+-").partition(".")
    digits = max(1, len(whole.lstrip("0")) + len(fraction))
    if digits > LARGEST_DECIMAL:
        return otherwise
    return f"CAST('{plain}' AS DECIMAL({digits}, {len(fraction)}))"
