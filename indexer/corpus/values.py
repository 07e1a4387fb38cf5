"""Columns as they are stored, and the rows with unusable values, without a Python object per value."""

from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from indexer.corpus.types import UNITS, is_list

DAY_SECONDS = 86_400

FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31 in days since 1970: the dates that SQL and the readers' languages can show."""

LONGEST_DAYS = 999_999_999
"""Longest duration that Python's ``timedelta`` holds."""

INT64_MAX = 2**63 - 1


class Fault(IntEnum):
    """Fault of a row's value, or of the row; the worst counts."""

    NONE = 0
    INVALID_UTF8 = 1
    OUT_OF_RANGE = 2
    OTHER_TYPE = 3
    MALFORMED = 4


def to_stored(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """A column with the type it is stored with.

    Args:
        column: Values as the file has them.
        target: A type that :func:`indexer.corpus.types.common_type` allows for them.

    Returns:
        The values, null where one does not fit, and :class:`Fault` of every row, uint8, shape (rows,).
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if types.is_dictionary(column.type):
        return _from_dictionary(column, target)
    if types.is_null(column.type):
        return pa.nulls(len(column), target), np.zeros(len(column), np.uint8)
    if types.is_struct(target):
        return _from_struct(column, target)
    if types.is_fixed_size_list(target):
        return _from_fixed_size_list(column, target)
    return _from_list(column, target) if is_list(target) else _from_leaf(column, target)


def byte_sizes(column: pa.Array) -> np.ndarray:
    """Approximate bytes of every row of a stored column, int64, shape (rows,)."""
    if types.is_string(column.type) or types.is_binary(column.type):
        return np.asarray(pc.fill_null(pc.binary_length(column), 0), np.int64)
    if types.is_struct(column.type):
        return sum((byte_sizes(part) for part in column.flatten()), np.zeros(len(column), np.int64))
    if types.is_fixed_size_list(column.type) or is_list(column.type):
        sizes = byte_sizes(column.flatten())
        return np.bincount(_parents(column), sizes, len(column)).astype(np.int64)
    width = 0 if types.is_null(column.type) or types.is_nested(column.type) else -(-column.type.bit_width // 8)
    return np.full(len(column), width, np.int64)


def _from_dictionary(column: pa.DictionaryArray, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """A dictionary column as its values, with the fault of every row."""
    # Convert the dictionary first: Arrow has no kernel that takes from a view.
    values, faults = to_stored(column.dictionary, target)
    places = pc.fill_null(column.indices.cast(pa.int64()), -1).to_numpy()
    return values.take(column.indices), np.where(places >= 0, np.append(faults, Fault.NONE)[places], Fault.NONE)


def _from_struct(column: pa.StructArray, target: pa.StructType) -> tuple[pa.Array, np.ndarray]:
    """A struct column, converted field by field; the worst fault of its fields counts."""
    # Match fields by name: files may have them in another order.
    names = [field.name for field in column.type]
    parts = [to_stored(column.field(names.index(field.name)), field.type) for field in target]
    valid = _valid(column)
    faults = np.max([np.where(valid, found, Fault.NONE) for _, found in parts], axis=0).astype(np.uint8)
    values = [values for values, _ in parts]
    return pa.StructArray.from_arrays(values, fields=list(target), mask=pa.array(~valid)), faults


def _from_fixed_size_list(column: pa.FixedSizeListArray, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """A list of fixed size, converted by its items; the worst fault of an item counts."""
    size = target.list_size
    if is_list(column.type):
        column = column.cast(pa.list_(column.type.value_type, size))
    values, faults = to_stored(column.values.slice(column.offset * size, len(column) * size), target.value_type)
    valid = _valid(column)
    found = faults.reshape(len(column), size).max(axis=1, initial=Fault.NONE)
    built = pa.FixedSizeListArray.from_arrays(values, type=target, mask=pa.array(~valid))
    return built, np.where(valid, found, Fault.NONE).astype(np.uint8)


def _from_list(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """Rebuilds a list from items and lengths: Arrow's own cast of a list view gives an invalid array."""
    values, faults = to_stored(column.flatten(), target.value_type)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    found = np.zeros(len(column), np.uint8)
    np.maximum.at(found, _parents(column), faults)
    mask = pa.array(~_valid(column))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=target, mask=mask), found


def _from_leaf(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """A column without nested parts; values out of range become null."""
    faults = np.zeros(len(column), np.uint8)
    if types.is_integer(column.type) and types.is_duration(target):
        column = column.cast(target)  # Parquet itself has no durations
    bounds = _bounds(column.type, target)
    if bounds is not None:
        outside = _outside(column, *bounds)
        faults[outside] = Fault.OUT_OF_RANGE
        if outside.any():
            column = pc.if_else(pa.array(outside), pa.scalar(None, column.type), column)
    if column.type != target:
        column = column.cast(target)
    if types.is_string(target):
        faults[_not_utf8(column)] = Fault.INVALID_UTF8
    return column, faults


def _bounds(source: pa.DataType, target: pa.DataType) -> tuple[int, int] | None:
    """Least and largest integer of a temporal value that readers can show and the target can hold."""
    if types.is_date(source):
        scale = 1 if types.is_date32(source) else DAY_SECONDS * 1000
        return FIRST_DAY * scale, (LAST_DAY + 1) * scale - 1
    if not (types.is_timestamp(source) or types.is_time(source) or types.is_duration(source)):
        return None
    per_second = 1000 ** UNITS.index(source.unit)
    day = DAY_SECONDS * per_second
    if types.is_time(source):
        return 0, day - 1
    if types.is_duration(source):
        return max(-LONGEST_DAYS * day, -INT64_MAX), min(LONGEST_DAYS * day, INT64_MAX)
    # Readers show an instant in its zone, up to a day earlier or later.
    margin = 1 if source.tz else 0
    finer = 1000 ** (UNITS.index(target.unit) - UNITS.index(source.unit)) if types.is_timestamp(target) else 1
    least, most = (FIRST_DAY + margin) * day, (LAST_DAY + 1 - margin) * day - 1
    return max(least, -(INT64_MAX // finer)), min(most, INT64_MAX // finer)


def _outside(column: pa.Array, least: int, most: int) -> np.ndarray:
    """Rows whose integer lies out of the bounds."""
    integers = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())  # noqa: PLR2004
    numbers = pc.fill_null(integers, 0).to_numpy()
    return np.asarray((numbers < least) | (numbers > most))


def _not_utf8(column: pa.Array) -> np.ndarray:
    """Rows whose text is not UTF-8. Parquet readers do not check it, and one such value fails a whole batch."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return np.array([not _is_utf8(value) for value in column.cast(pa.binary()).to_pylist()], bool)
    return np.zeros(len(column), bool)


def _is_utf8(value: bytes | None) -> bool:
    """Whether bytes are UTF-8; a null counts as such."""
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _valid(column: pa.Array) -> np.ndarray:
    """Rows that are not null, bool, shape (rows,)."""
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False), bool)


def _parents(column: pa.Array) -> np.ndarray:
    """Row of every item of a list column."""
    return np.asarray(pc.list_parent_indices(column).to_numpy(), np.int64)
