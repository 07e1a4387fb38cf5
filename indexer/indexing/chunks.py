"""Chunks of long documents whose token ids are published: a text that grew at its end embeds its end."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.indexing.stored_vectors import StoredVectors
from indexer.inference.embed_inputs import TokenBatch
from indexer.inference.sequences import TokenSequences
from indexer.inference.text_vectors import NONE, TextVectors
from indexer.storage import lookups, tables, vector_columns


def chunk_hashes(ids: TokenSequences) -> list[bytes]:
    """Hash of the token ids of every chunk, 16 bytes."""
    return [hashlib.blake2b(row.astype("<i4").tobytes(), digest_size=16).digest() for row in ids]


def known_chunks(
    stored: StoredVectors, names: Sequence[str], tokens: TokenBatch, hashes: Sequence[bytes]
) -> tuple[np.ndarray, TextVectors]:
    """Finds chunks of documents with several chunks that are published under the same id with the same token ids.

    Args:
        stored: The published epoch.
        names: Ids of the batch's documents.
        tokens: Their chunks.
        hashes: Result of :func:`chunk_hashes`.

    Returns:
        Numbers of the known chunks, int64, shape (n,), and their vectors at the widest stored width.
    """
    name, version = stored.widest
    long = np.flatnonzero(np.bincount(tokens.row, minlength=len(names)) > 1)
    columns = [schema.ID, schema.CHUNK_HASH, schema.VECTOR]
    rows = lookups.lookup(stored.uri, name, version, [names[row] for row in long], columns) if long.size else None
    if rows is None or not rows.num_rows:
        return np.empty(0, np.int64), NONE
    keys = zip(rows[schema.ID].to_pylist(), rows[schema.CHUNK_HASH].to_pylist(), strict=True)
    places = {key: row for row, key in enumerate(keys)}
    wanted = [places.get((names[row], digest), -1) for row, digest in zip(tokens.row, hashes, strict=True)]
    found = np.array(wanted, np.int64)
    known = np.flatnonzero(found >= 0)
    vectors = rows[schema.VECTOR].take(pa.array(found[known]))
    return known, TextVectors(tables.to_matrix(vectors), vector_columns.counts(vectors))
