"""Turns one file into its digest: an id and hashes for every row, or the reason why a row cannot be indexed."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.corpus.documents import Corpus, check_columns, read_batches
from indexer.corpus.files import DataFile, open_parquet
from indexer.corpus.rows import content_hash, invalid_rows, payload_hashes, payload_of, texts_of, to_plain
from indexer.reasons import QuarantineReason
from indexer.schema import CONTENT_HASH_TYPE, DIGEST_SCHEMA


def scan_file(corpus: Corpus, file: DataFile) -> pa.Table:
    """Reads one file into its digest.

    Args:
        corpus: The corpus.
        file: One of its files.

    Returns:
        Table of :data:`indexer.schema.DIGEST_SCHEMA`, a row per row of the file, sorted by id.

    Raises:
        BadFile: The file is not Parquet, is damaged or has changed.
        WrongColumns: It lacks a column or has one with another type.
    """
    with open_parquet(corpus.settings.uri, file) as parquet:
        check_columns(parquet, corpus, file)
        digests = [_digest(rows, corpus) for rows in read_batches(parquet, corpus, file)]
    return pa.Table.from_batches(digests, DIGEST_SCHEMA).sort_by("id")


def _digest(rows: tuple[int, pa.RecordBatch], corpus: Corpus) -> pa.RecordBatch:
    first, batch = rows
    ids, texts = to_plain(batch.column(corpus.settings.id_column)), texts_of(batch, corpus.settings)
    payload = payload_of(batch, corpus.payload)
    invalid = invalid_rows([ids, texts, *payload.columns], batch.num_rows)
    raw = pc.if_else(pa.array(invalid), pa.scalar(None, pa.binary()), texts.cast(pa.binary())).to_pylist()
    reasons = [_reason(*row) for row in zip(invalid, ids.is_valid().to_pylist(), raw, strict=True)]
    return pa.record_batch(
        [
            pa.array(np.arange(first, first + batch.num_rows)),
            pc.if_else(pa.array(invalid), pa.scalar(None, pa.string()), ids),
            pa.array([content_hash(text or b"") for text in raw], CONTENT_HASH_TYPE),
            payload_hashes(payload, ~invalid),
            pa.array([len(text or b"") for text in raw], pa.int64()),
            pa.array(reasons, pa.string()),
        ],
        schema=DIGEST_SCHEMA,
    )


def _reason(invalid: bool, has_id: bool, text: bytes | None) -> QuarantineReason | None:  # noqa: FBT001
    if invalid:
        return QuarantineReason.INVALID_UTF8
    if not has_id:
        return QuarantineReason.NULL_ID
    if text is None:
        return QuarantineReason.NULL_TEXT
    # Looking at the first characters decides nearly always, without decoding all of a large text.
    return None if text[:64].decode(errors="ignore").strip() or text.decode().strip() else QuarantineReason.EMPTY_TEXT
