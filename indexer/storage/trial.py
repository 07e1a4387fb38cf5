"""Tries whether payload columns can be stored and searched, with rows of the real schema in a temporary folder."""

import datetime
import tempfile
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from indexer import schema
from indexer.errors import IndexerError, first_line
from indexer.storage import scratch, tables

WIDTH = 32

STAGED, SEARCHED = "staged", "searched"
"""Tables of the temporary folder."""

DISTANCE = "_distance"

ADDED = frozenset({DISTANCE, "_score", "_relevance_score", "_rowid", "_rowaddr", "_rowoffset"})
"""Columns that LanceDB adds to results of searches by vector, by text, hybrid and re-ranked."""

PANIC = "PanicException"
"""Class that a panic in a Rust library raises in Python; it is no subclass of ``Exception``."""


def first_refused(payload: pa.Schema) -> tuple[pa.Field, str] | None:
    """The first payload column that cannot be stored and searched, and why; ``None`` where all can.

    Args:
        payload: Payload columns with the types they are stored with.

    Raises:
        IndexerError: Nothing can be written to the folder for temporary files.
    """
    for field in payload:
        reason = _known_reason(field)
        if reason is not None:
            return field, reason
    if _failure(payload) is None:
        return None
    without = _failure(pa.schema([]))
    if without is not None:
        raise IndexerError(f"cannot try the tables in {tempfile.gettempdir()}: {without}")
    alone = ((field, _failure(pa.schema([field]))) for field in payload)
    refused = next(((field, reason) for field, reason in alone if reason is not None), None)
    return refused or (payload.field(0), "together with the other payload columns it is refused")


def _known_reason(field: pa.Field) -> str | None:
    """Reasons that LanceDB's errors do not give: it adds a column of that name itself, or the library panics."""
    if field.name in ADDED:
        return "LanceDB gives a column of this name to the results of a search"
    return "fixed-size lists of values of any length are not supported" if _holds_variable_items(field.type) else None


def _holds_variable_items(type_: pa.DataType) -> bool:
    """Whether a type holds fixed-size lists whose items vary in length, at any depth."""
    if types.is_fixed_size_list(type_) and not (
        types.is_primitive(type_.value_type) or types.is_fixed_size_list(type_.value_type)
    ):
        return True
    return types.is_nested(type_) and any(_holds_variable_items(type_.field(at).type) for at in range(type_.num_fields))


def _failure(payload: pa.Schema) -> str | None:
    """Stores and searches rows of a payload; returns the first line of the error, ``None`` if it works."""
    target = schema.width_schema(WIDTH, "float32", payload)
    try:
        rows = pa.table([_column(field) for field in target], schema=target)
        with tempfile.TemporaryDirectory() as folder:
            tables.create_missing(folder, {STAGED: target}, "trial")
            tables.stage(folder, STAGED, rows)
            scratch.write(folder, SEARCHED, target, rows.to_batches())
            query = tables.lancedb_table(folder, SEARCHED).search(
                np.ones(WIDTH, np.float32), vector_column_name=schema.VECTOR
            )
            query.select([*target.names[:-1], DISTANCE]).limit(rows.num_rows).to_list()
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001  # any error of a library about the schema
        return first_line(error)
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        return first_line(error)
    return None


def _column(field: pa.Field) -> pa.Array:
    """Two rows: a value, and a null if the column may hold one."""
    value = _sample(field.type)
    return pa.array([value, None if field.nullable else value], field.type)


def _sample(type_: pa.DataType) -> Any:
    """Some value of a type."""
    if types.is_struct(type_):
        return {field.name: _sample(field.type) for field in type_}
    if types.is_map(type_) or types.is_list(type_) or types.is_fixed_size_list(type_):
        item = (_sample(type_.key_type), _sample(type_.item_type)) if types.is_map(type_) else _sample(type_.value_type)
        return [item] * (type_.list_size if types.is_fixed_size_list(type_) else 1)
    if types.is_fixed_size_binary(type_):
        return bytes(type_.byte_width)
    return next((value for fits, value in _SAMPLES if fits(type_)), 1)


_SAMPLES = (
    (types.is_string, "a"),
    (types.is_binary, b"a"),
    (types.is_boolean, True),
    (types.is_decimal, Decimal(0)),
    (types.is_date, datetime.date(2026, 1, 2)),
    (types.is_timestamp, datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)),
    (types.is_time, datetime.time(1)),
    (types.is_duration, datetime.timedelta(1)),
    (types.is_float16, np.float16(1)),
)
