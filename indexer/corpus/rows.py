"""Texts, payload and hashes of one batch of rows."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.schema import PAYLOAD_HASH_TYPE
from indexer.settings import CorpusSettings

TEXT_SEPARATOR = "\n"

STRING = pa.string()


def content_hash(text: bytes) -> bytes:
    """Hash of one text, 16 bytes."""
    return hashlib.blake2b(text, digest_size=16).digest()


def payload_hashes(payload: pa.Table, readable: np.ndarray | None = None) -> pa.Array:
    """Hash of each row's payload; zeros for a row that cannot be decoded."""
    if readable is not None and not readable.all():
        hashes = iter(payload_hashes(payload.filter(pa.array(readable))).to_pylist())
        nothing = bytes(PAYLOAD_HASH_TYPE.byte_width)
        return pa.array([next(hashes) if usable else nothing for usable in readable], PAYLOAD_HASH_TYPE)
    values = [_hashable(column) for column in payload.columns]
    rows = zip(*values, strict=True) if values else ((),) * payload.num_rows
    return pa.array((hashlib.blake2b(repr(row).encode(), digest_size=8).digest() for row in rows), PAYLOAD_HASH_TYPE)


def _hashable(column: pa.ChunkedArray) -> list[object]:
    """Values whose ``repr`` tells them apart; text where Arrow can write it, which is faster and version-stable.

    Bytes stay bytes: whether they happen to be text would depend on the rows that are read together.
    """
    if pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
        return list(column.to_pylist())
    try:
        return list(column.cast(pa.string()).to_pylist())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return list(column.to_pylist())


def texts_of(batch: pa.RecordBatch, settings: CorpusSettings) -> pa.Array:
    """Text of every row, null where every text column is null."""
    columns = [to_plain(batch.column(name)) for name in settings.text_columns]
    if len(columns) == 1:
        return columns[0]
    joined = pc.binary_join_element_wise(*columns, TEXT_SEPARATOR, null_handling="skip")
    any_valid = np.logical_or.reduce([column.is_valid().to_numpy(zero_copy_only=False) for column in columns])
    return pc.if_else(pa.array(any_valid), joined, None)


def payload_of(batch: pa.RecordBatch, payload: pa.Schema) -> pa.Table:
    """The payload columns with the types they are stored with."""
    if not payload.names:
        return pa.Table.from_batches([batch]).select([])
    return pa.table([to_plain(batch.column(field.name), field.type) for field in payload], schema=payload)


def to_plain(column: pa.Array, type_: pa.DataType = STRING) -> pa.Array:
    """The column with the type it is stored with: dictionaries decoded, large and view types made ordinary."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column if column.type == type_ else column.cast(type_)


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type that values of ``type_`` are stored with."""
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    if isinstance(type_, pa.BaseExtensionType):
        return plain_type(type_.storage_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    return type_


def invalid_rows(columns: Sequence[pa.Array | pa.ChunkedArray], rows: int) -> np.ndarray:
    """Rows in which a text is not UTF-8. Parquet readers do not check, and one such value poisons a whole batch."""
    invalid = np.zeros(rows, bool)
    for column in columns:
        if not pa.types.is_string(column.type):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            invalid |= np.array([not _is_utf8(value) for value in column.cast(pa.binary()).to_pylist()])
    return invalid


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
