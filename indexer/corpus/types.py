"""The normal form of an Arrow type: the stored type, however a file writes the values."""

from itertools import starmap

import pyarrow as pa
from pyarrow import types

UNITS = ("s", "ms", "us", "ns")
"""Units of timestamps and durations, the coarsest first."""


def is_list(type_: pa.DataType) -> bool:
    """Whether the type is a list of any length, in any of Arrow's four forms."""
    return bool(
        types.is_list(type_)
        or types.is_large_list(type_)
        or types.is_list_view(type_)
        or types.is_large_list_view(type_)
    )


def normal_type(type_: pa.DataType) -> pa.DataType:
    """The type that values of ``type_`` are stored with, at every depth.

    Dictionaries become their values, extensions their storage, large and view types ordinary ones, small decimals those
    of 128 bits. Every nested field may be null, and list items are called ``item``: neither is part of a value.
    """
    if types.is_dictionary(type_):
        return normal_type(type_.value_type)
    if isinstance(type_, pa.BaseExtensionType):
        return normal_type(type_.storage_type)
    if types.is_large_string(type_) or types.is_string_view(type_):
        return pa.string()
    if types.is_large_binary(type_) or types.is_binary_view(type_):
        return pa.binary()
    return _normal_nested(type_) if types.is_nested(type_) else _normal_leaf(type_)


def _normal_leaf(type_: pa.DataType) -> pa.DataType:
    """The normal form of a type without parts: decimals of 32 and 64 bits get 128, which LanceDB stores."""
    is_small = types.is_decimal32(type_) or types.is_decimal64(type_)
    return pa.decimal128(type_.precision, type_.scale) if is_small else type_


def _normal_nested(type_: pa.DataType) -> pa.DataType:
    """The normal form of a list, struct or map; any other type as it is."""
    if types.is_fixed_size_list(type_):
        return pa.list_(normal_type(type_.value_type), type_.list_size)
    if is_list(type_):
        return pa.list_(normal_type(type_.value_type))
    if types.is_struct(type_):
        return pa.struct([pa.field(field.name, normal_type(field.type)) for field in type_])
    if types.is_map(type_):
        return pa.map_(normal_type(type_.key_type), normal_type(type_.item_type))
    return type_


def holds_null_type(type_: pa.DataType) -> bool:
    """Whether a part of the type is Arrow's ``null``: the file has no value there to show the type."""
    return bool(types.is_null(type_)) or any(holds_null_type(field.type) for field in _children(type_))


def holds_dictionary(type_: pa.DataType) -> bool:
    """Whether a part of the type is a dictionary."""
    return bool(types.is_dictionary(type_)) or any(holds_dictionary(field.type) for field in _children(type_))


def without_null_type(type_: pa.DataType) -> pa.DataType:
    """The type, with string for every part whose type no file shows."""
    if types.is_null(type_):
        return pa.string()
    return _rebuilt(type_, [without_null_type(field.type) for field in _children(type_)])


def common_type(ours: pa.DataType, theirs: pa.DataType) -> pa.DataType | None:
    """The type that can store values of both types, or ``None`` if they contradict.

    Args:
        ours: The stored type, which wins: nested fields keep names, order and nullability.
        theirs: Another one, e.g. of another file.

    Returns:
        ``ours``, with its open parts (Arrow's ``null``) taken from ``theirs``.
    """
    theirs = normal_type(theirs)
    if types.is_null(theirs) or normal_type(ours) == theirs:
        return ours
    if types.is_null(ours):
        return theirs
    if types.is_timestamp(ours) and types.is_timestamp(theirs):
        # A finer unit holds the instants of a coarser one. Rows out of its range are quarantined one by one.
        return ours if ours.tz == theirs.tz and UNITS.index(ours.unit) >= UNITS.index(theirs.unit) else None
    return _common_nested(ours, theirs)


def _common_nested(ours: pa.DataType, theirs: pa.DataType) -> pa.DataType | None:
    """Common type of two nested types, part by part."""
    pairs = _pairs(ours, theirs)
    if not pairs:
        return None
    children = list(starmap(common_type, pairs))
    return None if None in children else _rebuilt(ours, children)


def wider_type(ours: pa.DataType, theirs: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both types where a sample of them shows ``theirs``, ``None`` if there is none.

    Integers become wider or fractions, structs get the fields of both.
    """
    common = common_type(ours, theirs)
    if common is not None:
        return common
    if types.is_struct(ours) and types.is_struct(theirs):
        return _union(ours, theirs)
    if is_list(ours) and is_list(theirs):
        item = wider_type(ours.value_type, theirs.value_type)
        return None if item is None else pa.list_(item)
    return _wider_number(ours, theirs)


def _wider_number(ours: pa.DataType, theirs: pa.DataType) -> pa.DataType | None:
    """The wider type of two numbers, ``None`` if one is no number or neither is wider."""
    if types.is_integer(ours) and types.is_integer(theirs):
        return theirs if ours.bit_width < theirs.bit_width else None
    if types.is_integer(ours) and types.is_floating(theirs):
        return theirs
    return ours if types.is_floating(ours) and types.is_integer(theirs) else None


def _union(ours: pa.StructType, theirs: pa.StructType) -> pa.DataType | None:
    """The struct with the fields of both, ``ours`` first; ``None`` if a field of both has no wider type."""
    found = {field.name: field.type for field in ours}
    for field in theirs:
        found[field.name] = wider_type(found.get(field.name, pa.null()), field.type)
    return None if None in found.values() else pa.struct(list(found.items()))


def _pairs(ours: pa.DataType, theirs: pa.DataType) -> list[tuple[pa.DataType, pa.DataType]]:
    """Pairs of corresponding parts; empty if the types are of different kinds."""
    if types.is_struct(ours) and types.is_struct(theirs):
        names = [field.name for field in ours]
        same = sorted(names) == sorted(field.name for field in theirs) and len(set(names)) == len(names)
        return [(field.type, theirs.field(field.name).type) for field in ours] if same else []
    if types.is_fixed_size_list(ours) and types.is_fixed_size_list(theirs):
        return [(ours.value_type, theirs.value_type)] if ours.list_size == theirs.list_size else []
    if is_list(ours) and is_list(theirs):
        return [(ours.value_type, theirs.value_type)]
    return []


def _children(type_: pa.DataType) -> list[pa.Field]:
    """Fields of a nested type's parts."""
    if types.is_map(type_):
        return [type_.key_field, type_.item_field]
    if not types.is_nested(type_):
        return []
    return [type_.field(at) for at in range(type_.num_fields)]


def _rebuilt(type_: pa.DataType, children: list[pa.DataType]) -> pa.DataType:
    """The nested type with other types of its parts."""
    fields = [field.with_type(child) for field, child in zip(_children(type_), children, strict=True)]
    if types.is_struct(type_):
        return pa.struct(fields)
    if types.is_fixed_size_list(type_):
        return pa.list_(fields[0], type_.list_size)
    if is_list(type_):
        return pa.list_(fields[0])
    return type_
