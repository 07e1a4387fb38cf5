"""Values that a text file gives, as columns of a type; the rows with values that do not fit."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import types

from indexer.corpus.types import is_list
from indexer.corpus.values import Fault

REFUSED = (pa.ArrowException, OverflowError, TypeError, ValueError)
"""What Arrow raises for values that do not fit; half of a surrogate pair is a :class:`UnicodeEncodeError`."""

LEADING_ZERO = re.compile(r"[-+]?0\d")
"""Begin of digits that are no number: 00501 is a post code."""

INTEGER = re.compile(r"[-+]?[0-9]+")

MOST_DIGITS = 300
"""A double holds no integer of more than 309."""


def to_column(values: Sequence[object], target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """A column of Python values as JSON and CSV have them.

    Args:
        values: ``None``, strings, numbers, booleans, lists and dictionaries.
        target: Type of the column. Strings are parsed, integers become strings where strings are wanted.

    Returns:
        The column, null where a value does not fit, and :class:`indexer.corpus.values.Fault` of every row, uint8, shape
        (rows,). A value that loses something has a fault and stays in the column without it: digests of earlier
        versions, which name no fault, stand for that.
    """
    convert = _converter(target)
    faults = np.zeros(len(values), np.uint8)
    try:
        column = convert(values, target)
    except REFUSED:
        found = [_single(value, target, convert) for value in values]
        column = pa.concat_arrays([one for one, _ in found])
        faults[:] = [fault for _, fault in found]
    loses = _loser(target)
    if loses is not None:
        faults[[row for row, value in enumerate(values) if loses(value)]] = Fault.OTHER_TYPE
    return column, faults


def fits(values: Sequence[object], target: pa.DataType) -> bool:
    """Whether a type holds all values; one that is not UTF-8 fits none."""
    return not bool((to_column(values, target)[1] == Fault.OTHER_TYPE).any())


def is_rounded(digits: str) -> bool:
    """Whether a fraction of 64 bits cannot hold an integer; other numbers it may round."""
    return INTEGER.fullmatch(digits) is not None and (len(digits) > MOST_DIGITS or int(float(digits)) != int(digits))


def _single(
    value: object, target: pa.DataType, convert: Callable[[Sequence[object], pa.DataType], pa.Array]
) -> tuple[pa.Array, Fault]:
    """One value as a column, and its fault."""
    try:
        return convert([value], target), Fault.NONE
    except UnicodeEncodeError:
        return pa.nulls(1, target), Fault.INVALID_UTF8
    except REFUSED:
        return pa.nulls(1, target), Fault.OTHER_TYPE


def _converter(target: pa.DataType) -> Callable[[Sequence[object], pa.DataType], pa.Array]:
    """The way to convert values to a type."""
    if types.is_nested(target):
        return _nested
    return _strings if types.is_string(target) else _leaves


def _loser(target: pa.DataType) -> Callable[[object], bool] | None:
    """Tells of a value whether the conversion leaves out a part of it; ``None`` for a type that has no such values."""
    if types.is_nested(target):
        return lambda value: _has_more(value, target)
    if types.is_floating(target):
        return lambda value: isinstance(value, str) and (LEADING_ZERO.match(value) is not None or is_rounded(value))
    if types.is_integer(target) or types.is_decimal(target):
        return lambda value: isinstance(value, str) and LEADING_ZERO.match(value) is not None
    if types.is_boolean(target):
        # Arrow takes any number but 0 for true.
        return lambda value: isinstance(value, int | float) and value not in {0, 1}
    return None


def _has_more(value: object, target: pa.DataType) -> bool:
    """Whether a value has a part that the type has no place for, at any depth: an object's key, or a list's items."""
    if value is None:
        return False
    if types.is_struct(target):
        # Arrow takes a list for the pairs of an object.
        known = {field.name: field.type for field in target}
        return not isinstance(value, dict) or any(
            item is not None and (key not in known or _has_more(item, known[key])) for key, item in value.items()
        )
    if isinstance(value, list) and (is_list(target) or types.is_fixed_size_list(target)):
        return any(_has_more(item, target.value_type) for item in value)
    return False


def _strings(values: Sequence[object], target: pa.DataType) -> pa.Array:
    """Strings; integers as their digits. Other numbers have several spellings, so they are no strings."""
    return pa.array([str(value) if type(value) is int else value for value in values], target)


def _leaves(values: Sequence[object], target: pa.DataType) -> pa.Array:
    """Values without parts. Arrow converts to a given type by cutting 1.5 to 1; its cast refuses that."""
    return pa.array(values).cast(target)


def _nested(values: Sequence[object], target: pa.DataType) -> pa.Array:
    """Lists and dictionaries."""
    if any(_is_cut(value, target) for value in values):
        raise ValueError("a number with a fraction where integers are wanted")
    return pa.array(values, target)


def _is_cut(value: object, target: pa.DataType) -> bool:
    """Whether a part of a value has a fraction that an integer cannot hold."""
    if isinstance(value, float):
        return types.is_integer(target) and not value.is_integer()
    if isinstance(value, list) and (is_list(target) or types.is_fixed_size_list(target)):
        return any(_is_cut(item, target.value_type) for item in value)
    if isinstance(value, dict) and types.is_struct(target):
        return any(_is_cut(value.get(field.name), field.type) for field in target)
    return False
