"""Texts, payload and hashes of one batch of rows."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.corpus.types import normal_type
from indexer.corpus.values import Fault, byte_sizes, to_stored
from indexer.schema import PAYLOAD_HASH_TYPE

TEXT_SEPARATOR = "\n"

STRING = pa.string()

BLANK = r"^[\s\v\x1c-\x1f\x{85}\p{Z}]*$"
"""Pattern (RE2) of a text that :meth:`str.strip` leaves nothing of."""


@dataclass(frozen=True)
class Rows:
    """One batch as it is stored.

    Attributes:
        ids: Document ids, null where one is null or not UTF-8.
        texts: Text columns joined with a newline, null where all are null.
        payload: Payload columns with the types they are stored with.
        id_faults: :class:`indexer.corpus.values.Fault` of every id, uint8, shape (rows,).
        text_faults: Fault of every text, likewise.
        payload_faults: Worst fault of every row's payload, likewise.
        row_faults: Fault of every row that its format cannot read, likewise.
    """

    ids: pa.Array
    texts: pa.Array
    payload: pa.Table
    id_faults: np.ndarray
    text_faults: np.ndarray
    payload_faults: np.ndarray
    row_faults: np.ndarray

    @property
    def faults(self) -> np.ndarray:
        """The worst :class:`indexer.corpus.values.Fault` of every row."""
        return np.max(self._all_faults, axis=0)

    @property
    def _all_faults(self) -> list[np.ndarray]:
        """Faults of ids, texts, payload and rows."""
        return [self.id_faults, self.text_faults, self.payload_faults, self.row_faults]

    def take(self, rows: np.ndarray) -> "Rows":
        """Some of the rows, by their places. Only stored types allow this: Arrow has no such kernel for views."""
        at = pa.array(rows)
        faults = (found[rows] for found in self._all_faults)
        # Taking rows from a table without columns would give none.
        payload = self.payload.take(at) if self.payload.num_columns else self.payload.slice(0, len(rows))
        return Rows(self.ids.take(at), self.texts.take(at), payload, *faults)


def content_hash(text: bytes) -> bytes:
    """Hash of one text, 16 bytes."""
    return hashlib.blake2b(text, digest_size=16).digest()


def ids_of(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Ids as strings, null where one is not UTF-8, and the fault of each."""
    stored, faults = to_stored(column, normal_type(column.type))
    ids = pc.if_else(pa.array(faults == Fault.NONE), stored, pa.scalar(None, stored.type))
    return ids.cast(STRING), faults


def texts_of(columns: Mapping[str, pa.Array], *, skip_empty: bool) -> tuple[pa.Array, np.ndarray]:
    """Text of every row, null where every text column is null, and the fault of each.

    Args:
        columns: Text columns by name, in the order they are joined in.
        skip_empty: Whether a text that is empty or only whitespace adds nothing, as a null one; otherwise it adds
            itself and a newline.
    """
    found = [to_stored(column, STRING) for column in columns.values()]
    texts = [text for text, _ in found]
    faults = np.max([fault for _, fault in found], axis=0)
    if len(texts) == 1:
        return texts[0], faults
    any_valid = np.logical_or.reduce([text.is_valid().to_numpy(zero_copy_only=False) for text in texts])
    if skip_empty:
        texts = [pc.if_else(pc.match_substring_regex(text, BLANK), pa.scalar(None, STRING), text) for text in texts]
    has_text = np.logical_or.reduce([text.is_valid().to_numpy(zero_copy_only=False) for text in texts])
    # Arrow's join drops a row whose parts are all null: give such a row an empty part.
    texts[0] = pc.if_else(pa.array(has_text), texts[0], "")
    joined = pc.binary_join_element_wise(*texts, TEXT_SEPARATOR, null_handling="skip")
    return pc.if_else(pa.array(any_valid), joined, pa.scalar(None, STRING)), faults


def payload_of(columns: Mapping[str, pa.Array], payload: pa.Schema, rows: int) -> tuple[pa.Table, np.ndarray]:
    """The payload with the types it is stored with, and the worst fault of every row."""
    if not payload.names:
        return pa.table({"": pa.nulls(rows)}).select([]), np.zeros(rows, np.uint8)
    found = [to_stored(columns[field.name], field.type) for field in payload]
    faults = np.max([fault for _, fault in found], axis=0)
    return pa.table([column for column, _ in found], schema=payload), faults


def payload_sizes(payload: pa.Table) -> np.ndarray:
    """About the bytes of each row's payload, int64, shape (rows,)."""
    sizes = np.zeros(payload.num_rows, np.int64)
    for column in payload.columns:
        sizes += byte_sizes(column.combine_chunks())
    return sizes


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
    """Values with distinct ``repr``; as text if Arrow can write it, which is faster and stable between versions.

    Bytes stay bytes: as text, their form would depend on the rows that are read together.
    """
    if not (pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type)):
        try:
            return list(column.cast(STRING).to_pylist())
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            pass
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, LookupError, OSError, pa.ArrowException):
        # Python lacks some values, such as nanoseconds, and may lack a time zone: hash their serialised bytes.
        return [_hashable_value(column.slice(row, 1)) for row in range(len(column))]


def _hashable_value(value: pa.ChunkedArray) -> object:
    """One value as a Python object, or its serialised bytes if Python cannot hold it."""
    try:
        return value[0].as_py()
    except (ValueError, OverflowError, LookupError, OSError, pa.ArrowException):
        alone = value.combine_chunks().take(pa.array([0]))
        return bytes(pa.record_batch([alone], [""]).serialize())
