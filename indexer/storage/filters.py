"""SQL filters on table columns; the only place that makes SQL."""

import math
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyarrow import types

from indexer import schema
from indexer.errors import SettingsError
from indexer.storage import instants

NOTHING = "false"
"""Condition that no row meets."""

QUOTES = "'\"`"

ITEMS = (types.is_boolean, types.is_integer, types.is_string, types.is_large_string, types.is_date)
"""Types of which a list can be filtered by its items."""

LEAST_INTEGER = -(1 << 63)

OFFSET = "give times with their offset, as 2024-03-01T18:30+01:00"

UNITS = {"s": "Second", "ms": "Millisecond", "us": "Microsecond", "ns": "Nanosecond"}
"""Units of timestamps in SQL, by Arrow's names."""

LARGEST_DECIMAL = 38
"""Digits of the widest decimals that Lance's SQL has."""


class Condition(str):
    """A condition as Lance takes it: one only, with literals of its columns' types."""

    __slots__ = ()


def one_of(column: str, values: Iterable[str]) -> str:
    """Filter for the rows whose column has one of the values; no row without values."""
    listed = ", ".join(map(_quoted, values))
    return f"{column} IN ({listed})" if listed else NOTHING


def one_of_hashes(column: str, values: Iterable[bytes]) -> str:
    """Filter for the rows whose column of bytes has one of the values."""
    literals = (f"X'{value.hex()}'" for value in values)
    return f"{column} IN ({', '.join(literals)})"


def between(column: str, low: str | None, high: str | None) -> str | None:
    """Filter for ``low <= column < high``. A bound of ``None`` is left out; without bounds there is no filter."""
    bounds = [] if low is None else [f"{column} >= {_quoted(low)}"]
    bounds += [] if high is None else [f"{column} < {_quoted(high)}"]
    return " AND ".join(bounds) or None


def key_is(name: str, chunk: int) -> str:
    """Filter for one row by its key."""
    return f"{schema.ID} = {_quoted(name)} AND {schema.CHUNK} = {chunk}"


def first_chunk() -> str:
    """Filter for one row of every document."""
    return f"{schema.CHUNK} = 0"


def all_of(*conditions: str | None) -> str | None:
    """Filter for the rows that meet all conditions; ``None`` is left out, and without any there is no filter."""
    given = [condition for condition in conditions if condition is not None]
    return " AND ".join(given) or None


def one_condition(where: str) -> str:
    """A user's condition in parentheses, so that nothing of it can be dropped: Lance reads the first one of several.

    Raises:
        SettingsError: It is more or less than one condition.
    """
    depth, inside = 0, ""
    for character in where:
        if inside:
            inside = "" if character == inside else inside
        elif character in QUOTES:
            inside = character
        else:
            depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0 or (not inside and character == ";"):
            raise SettingsError("the filter is not one condition: a ; or a parenthesis ends it before its end")
    if inside or depth or not where.strip():
        raise SettingsError("the filter is not one condition: it is empty, or a quote or parenthesis is not closed")
    return f"({where})"


def quoted_name(column: str) -> str:
    """A column's name as SQL.

    Raises:
        SettingsError: No quotes can stand around it.
    """
    if "`" in column:
        raise SettingsError(f"filters: a column with a backtick in its name cannot be filtered by: {column!r}")
    return f"`{column}`"


def can_compare(type_: pa.DataType) -> bool:
    """Whether a filter can name values of a type, or items of a list of it."""
    if types.is_list(type_):
        return any(fits(type_.value_type) for fits in ITEMS)
    if types.is_decimal(type_) and type_.precision > LARGEST_DECIMAL:
        return False
    return any(fits(type_) for fits, _ in LITERALS)


def matches(filters: Mapping[str, Any], table: pa.Schema) -> str | None:
    """Filter for the rows whose columns match values.

    Args:
        filters: By column a value, a list of which one is enough, a pair ``(low, high)`` whose ends count and may be
            ``None`` for no bound, or ``None`` for no value. Of a column with lists, one item must match.
        table: Schema of the table, whose types decide how values are written.

    Returns:
        The condition; ``None`` without filters.

    Raises:
        SettingsError: There is no such column, its type cannot be filtered by, or a value is not of its type.
    """
    return all_of(*(_matching(name, wanted, table) for name, wanted in filters.items()))


def _matching(name: str, wanted: Any, table: pa.Schema) -> str:
    """Condition on one column."""
    if name not in table.names or name == schema.VECTOR:
        known = [field.name for field in table if field.name != schema.VECTOR]
        raise SettingsError(f"filters: there is no column {name!r}; there are {', '.join(known)}")
    type_ = table.field(name).type
    column = quoted_name(name)
    if wanted is None:
        return f"{column} IS NULL"
    if not can_compare(type_):
        raise SettingsError(f"filters: column {name!r} of type {type_} cannot be filtered by values")
    try:
        if types.is_list(type_):
            return _has_item(column, wanted, type_.value_type)
        if isinstance(wanted, tuple):
            low, high = wanted
            return _in_range(column, low, high, type_)
        return _is_any(column, wanted if isinstance(wanted, list) else [wanted], type_)
    except LookupError:
        raise SettingsError(f"filters: the time zone of column {name!r}, {type_}, is unknown here: {OFFSET}") from None
    # Arithmetic errors are overflows, and what a decimal says of a text or of no number.
    except (TypeError, ValueError, ArithmeticError, pa.ArrowException):
        raise SettingsError(f"filters: the value for column {name!r} does not fit its type {type_}") from None


def _has_item(column: str, wanted: Any, item: pa.DataType) -> str:
    """Condition that a list has one of the items."""
    if isinstance(wanted, tuple):
        raise TypeError("no range of lists")
    literals = _literals(wanted if isinstance(wanted, list) else [wanted], item)
    if types.is_integer(item):  # without a cast Lance casts the whole column, and uses no index
        literals = [f"CAST({literal} AS {_integer_name(item)})" for literal in literals]
    return f"array_has_any({column}, make_array({', '.join(literals)}))" if literals else NOTHING


def _is_any(column: str, wanted: list[Any], type_: pa.DataType) -> str:
    """Condition that a column has one of the values; ``None`` among them stands for no value."""
    literals = _literals([value for value in wanted if value is not None], type_)
    found = [f"{column} IN ({', '.join(literals)})"] if literals else []
    found += [f"{column} IS NULL"] if None in wanted else []
    return f"({' OR '.join(found)})" if found else NOTHING


def _in_range(column: str, low: Any, high: Any, type_: pa.DataType) -> str:
    """Condition that a column lies between two values; both ends count."""
    if types.is_timestamp(type_):
        low, high = (None if bound is None else instants.count(bound, type_) for bound in (low, high))
    if types.is_integer(type_) or types.is_timestamp(type_):
        least, most = integers(type_)
        low = max(math.ceil(low), least) if low is not None else None
        high = min(math.floor(high), most) if high is not None else None
        if (low is not None and low > most) or (high is not None and high < least):
            return NOTHING
    # Zeros of both signs are one number to people, and two to Arrow's order.
    if types.is_floating(type_):
        low, high = (-0.0 if low == 0 else low), (0.0 if high == 0 else high)
    bounds = [] if low is None else [f"{column} >= {literal(low, type_)}"]
    bounds += [] if high is None else [f"{column} <= {literal(high, type_)}"]
    return f"({' AND '.join(bounds)})" if bounds else f"{column} IS NOT NULL"


def _literals(values: Iterable[Any], type_: pa.DataType) -> list[str]:
    """SQL literals of the values that the type can hold: a value that it cannot hold equals none of a column."""
    found: list[str] = []
    if types.is_timestamp(type_):
        values = [instants.count(value, type_) for value in values]
    for value in values:
        if types.is_integer(type_) or types.is_timestamp(type_):
            if isinstance(value, str | bytes):
                raise TypeError("not a number")
            least, most = integers(type_)
            if value != int(value) or not least <= value <= most:
                continue
        if types.is_floating(type_) and value == 0:
            found += [literal(0.0, type_), literal(-0.0, type_)]
            continue
        found.append(literal(value, type_))
    return found


def _integer_name(type_: pa.DataType) -> str:
    """An integer type in SQL."""
    name = {8: "TINYINT", 16: "SMALLINT", 32: "INT", 64: "BIGINT"}[type_.bit_width]
    return name if types.is_signed_integer(type_) else f"{name} UNSIGNED"


def integers(type_: pa.DataType) -> tuple[int, int]:
    """Least and greatest value of a type of integers, or of the units of timestamps."""
    bits = type_.bit_width
    return (0, (1 << bits) - 1) if types.is_unsigned_integer(type_) else (-(1 << bits - 1), (1 << bits - 1) - 1)


def literal(value: Any, type_: pa.DataType) -> str:
    """SQL literal of a value as a type, of a moment as :func:`indexer.storage.instants.count` counts it.

    Raises ValueError or TypeError if the type cannot hold it.
    """
    write = next(write for fits, write in LITERALS if fits(type_))
    return write(value, type_)


def _boolean(value: Any, _: pa.DataType) -> str:
    if not isinstance(value, bool):
        raise TypeError("not true or false")
    return str(value).lower()


def _integer(value: Any, _: pa.DataType) -> str:
    # The least 64-bit integer has no literal: SQL reads its digits first, which are one too many, then the sign.
    return f"CAST('{int(value)}' AS BIGINT)" if value == LEAST_INTEGER else str(int(value))


def _float(value: Any, type_: pa.DataType) -> str:
    """A number as SQL that has the same bits."""
    if isinstance(value, str | bytes) or math.isnan(value):
        raise TypeError("not a number")
    stored = float(type_.to_pandas_dtype()(value))  # as the column rounds it
    return f"CAST('{stored!r}' AS {'FLOAT' if types.is_float32(type_) else 'DOUBLE'})"


def _decimal(value: Any, type_: pa.DataType) -> str:
    exact = pa.scalar(Decimal(str(value)), type_).as_py()
    return f"CAST('{exact:f}' AS DECIMAL({type_.precision}, {type_.scale}))"


def _date(value: Any, _: pa.DataType) -> str:
    day = value if isinstance(value, date) else date.fromisoformat(value)
    return f"date '{day.isoformat()[:10]}'"


def _timestamp(value: Any, type_: pa.DataType) -> str:
    # As text Lance would read what a clock shows, which is one text for the two hours that are repeated in autumn. It
    # would also cut digits that the column's unit cannot hold.
    if type_.tz and '"' in type_.tz:
        raise ValueError("no name of a time zone")
    zone = f'Some("{type_.tz}")' if type_.tz else "None"
    return f"arrow_cast({int(value)}, {_quoted(f'Timestamp({UNITS[type_.unit]}, {zone})')})"


def _string(value: Any, _: pa.DataType) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a ValueError where half a surrogate pair stands alone, which Lance cannot take
    return _quoted(value)


def _binary(value: Any, type_: pa.DataType) -> str:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("not bytes")
    if types.is_fixed_size_binary(type_) and len(bytes(value)) != type_.byte_width:
        raise ValueError("another number of bytes")
    return f"X'{bytes(value).hex()}'"


LITERALS = (
    (types.is_boolean, _boolean),
    (types.is_integer, _integer),
    (types.is_floating, _float),
    (types.is_decimal, _decimal),
    (types.is_date, _date),
    (types.is_timestamp, _timestamp),
    (types.is_string, _string),
    (types.is_large_string, _string),
    (types.is_binary, _binary),
    (types.is_fixed_size_binary, _binary),
)
"""How a value is written, by its column's type."""


def _quoted(value: str) -> str:
    """SQL string literal. A quote inside is doubled; no other character has a special meaning."""
    return "'" + value.replace("'", "''") + "'"
