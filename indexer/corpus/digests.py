"""Turns one file into its digest: an id and hashes for every row, or the reason why a row cannot be indexed."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.corpus.documents import Corpus, check_columns, read_batches, rows_of
from indexer.corpus.files import DataFile
from indexer.corpus.rows import Rows, content_hash, payload_hashes, payload_sizes
from indexer.corpus.values import Fault
from indexer.reasons import QuarantineReason
from indexer.schema import CONTENT_HASH_TYPE, DIGEST_SCHEMA

FAULTS = {
    Fault.INVALID_UTF8: QuarantineReason.INVALID_UTF8,
    Fault.OUT_OF_RANGE: QuarantineReason.BAD_VALUE,
    Fault.OTHER_TYPE: QuarantineReason.BAD_VALUE,
    Fault.MALFORMED: QuarantineReason.MALFORMED,
}


def scan_file(corpus: Corpus, file: DataFile) -> pa.Table:
    """Reads one file into its digest.

    Args:
        corpus: The corpus.
        file: One of its files.

    Returns:
        Table of :data:`indexer.schema.DIGEST_SCHEMA`, a row per row of the file, sorted by id.

    Raises:
        BadFile: The file is not of its format, is damaged or has changed.
        WrongColumns: It lacks a column or has one with another type.
    """
    with corpus.open(file) as opened:
        check_columns(opened, corpus, file)
        digests = [_digest(batch.first, rows_of(batch, corpus)) for batch in read_batches(opened, corpus, file)]
    return pa.Table.from_batches(digests, DIGEST_SCHEMA).sort_by("id")


def _digest(first: int, rows: Rows) -> pa.RecordBatch:
    """Digest of one batch whose first row has the number ``first``."""
    count = len(rows.ids)
    faults = rows.faults
    is_text = pa.array(rows.text_faults == Fault.NONE)
    raw = pc.if_else(is_text, rows.texts.cast(pa.binary()), pa.scalar(None, pa.binary())).to_pylist()
    reasons = [_reason(*row) for row in zip(faults.tolist(), rows.ids.is_valid().to_pylist(), raw, strict=True)]
    return pa.record_batch(
        [
            pa.array(np.arange(first, first + count)),
            rows.ids,
            pa.array([content_hash(text or b"") for text in raw], CONTENT_HASH_TYPE),
            payload_hashes(rows.payload, faults == Fault.NONE),
            pa.array([len(text or b"") for text in raw], pa.int64()),
            pa.array(payload_sizes(rows.payload)),
            pa.array(reasons, pa.string()),
        ],
        schema=DIGEST_SCHEMA,
    )


def _reason(fault: int, has_id: bool, text: bytes | None) -> QuarantineReason | None:  # noqa: FBT001
    """Why a row cannot be indexed, ``None`` if it can."""
    if fault:
        return FAULTS[Fault(fault)]
    if not has_id:
        return QuarantineReason.NULL_ID
    if text is None:
        return QuarantineReason.NULL_TEXT
    # The first characters nearly always decide, without decoding all of a large text.
    return None if text[:64].decode(errors="ignore").strip() or text.decode().strip() else QuarantineReason.EMPTY_TEXT
