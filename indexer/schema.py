"""Column names and Arrow schemas: the contract between the stages.

A row of a width table is one chunk of one document, keyed by (``id``, ``chunk``). So is a row of the table of token
vectors, which an index of a late-interaction model has in place of them. Chunk 0 is the whole document unless
chunking is on. A row of the table of documents is one document: its payload and the key of chunk 0, without a vector.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

ID = "id"

CHUNK = "chunk"

CHAR_START = "char_start"

CHAR_END = "char_end"

CONTENT_HASH = "content_hash"

PAYLOAD_HASH = "payload_hash"

CHUNK_HASH = "chunk_hash"
"""Hash of a chunk's token ids, in tables whose long documents are split: a chunk with known ids keeps its vector."""

VECTOR = "vector"

TOKENS = "tokens"
"""Name of the table of token vectors, behind the index's."""

RESERVED = frozenset({ID, CHUNK, CHAR_START, CHAR_END, CONTENT_HASH, PAYLOAD_HASH, CHUNK_HASH, VECTOR})
"""Names that a payload column may not have."""

CONTENT_HASH_TYPE = pa.binary(16)

PAYLOAD_HASH_TYPE = pa.binary(8)

CHUNK_HASH_TYPE = pa.binary(16)

ARROW_PRECISION = {"float32": pa.float32(), "float16": pa.float16()}

KEY_FIELDS = (
    pa.field(ID, pa.string(), nullable=False),
    pa.field(CHUNK, pa.int32(), nullable=False),
    pa.field(CHAR_START, pa.int32(), nullable=False),
    pa.field(CHAR_END, pa.int32(), nullable=False),
)

HASH_FIELDS = (
    pa.field(CONTENT_HASH, CONTENT_HASH_TYPE, nullable=False),
    pa.field(PAYLOAD_HASH, PAYLOAD_HASH_TYPE, nullable=False),
)

DIGEST_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field(ID, pa.string()),
        *HASH_FIELDS,
        pa.field("text_bytes", pa.int64(), nullable=False),
        pa.field("payload_bytes", pa.int64(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""One row per corpus row: its identity, or the reason why it cannot be indexed."""

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field(ID, pa.string()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        *HASH_FIELDS,
    ]
)
"""Documents left out, each with a reason; ``detail`` never holds text of the document."""


def width_schema(
    width: int, precision: str, payload: pa.Schema, *, chunk_hashes: bool = False, per_token: bool = False
) -> pa.Schema:
    """Schema of one width table, or of the table of token vectors.

    Args:
        width: Matryoshka width, the length of every vector.
        precision: ``float32`` or ``float16``, how the vector components are stored.
        payload: Columns copied from the corpus, in their order.
        chunk_hashes: Whether every chunk has a hash of its token ids.
        per_token: Whether a row has a list of vectors, one of each token, instead of one vector.

    Returns:
        Key columns, payload, hashes and the vector, without metadata.
    """
    one = pa.list_(ARROW_PRECISION[precision], width)
    vector = pa.field(VECTOR, pa.list_(one) if per_token else one, nullable=False)
    chunk = [pa.field(CHUNK_HASH, CHUNK_HASH_TYPE, nullable=False)] if chunk_hashes else []
    return pa.schema([*KEY_FIELDS, *payload, *HASH_FIELDS, *chunk, vector])


def documents_schema(payload: pa.Schema) -> pa.Schema:
    """Schema of the table of documents: key columns of chunk 0, payload and hashes, without metadata.

    Args:
        payload: Columns copied from the corpus, in their order.
    """
    return pa.schema([*KEY_FIELDS, *payload, *HASH_FIELDS])


@dataclass(frozen=True)
class Layout:
    """The tables of one generation of an index: their names and schemas.

    Attributes:
        name: Name of the index.
        generation: 1 for the tables first built; raised when a changed model or layout builds new ones beside them.
        widths: Matryoshka widths, one table each, widest first.
        precision: ``float32`` or ``float16``.
        metric: ``cosine``, ``dot`` or ``l2``.
        payload: Columns copied from the corpus.
        chunk_hashes: Whether every chunk has a hash of its token ids.
        repeated: Payload columns that the width tables have too, where a table of documents has the payload; ``None``
            where every width table has all of it.
        per_token: Whether a row has a vector of each of its tokens, as a late-interaction model gives them. They have
            one width, and one table named after them.
    """

    name: str
    generation: int
    widths: tuple[int, ...]
    precision: str
    metric: str
    payload: pa.Schema
    chunk_hashes: bool = False
    repeated: tuple[str, ...] | None = None
    per_token: bool = False

    def table(self, width: int) -> str:
        """Name of a width table, e.g. ``docs_d256`` or, in the third generation, ``docs_g3_d256``.

        The table of token vectors is ``docs_tokens``.
        """
        return self._name(TOKENS if self.per_token else f"d{width}")

    @property
    def quarantine(self) -> str:
        """Name of the quarantine table."""
        return self._name("quarantine")

    @property
    def documents(self) -> str | None:
        """Name of the table of documents; ``None`` where the width tables have the whole payload."""
        is_needed = self.repeated is not None and set(self.repeated) != set(self.payload.names)
        return self._name("documents") if is_needed else None

    def schema(self, width: int) -> pa.Schema:
        """Schema of a width table."""
        stored = self.payload
        if self.repeated is not None:
            stored = pa.schema([field for field in stored if field.name in self.repeated])
        return width_schema(width, self.precision, stored, chunk_hashes=self.chunk_hashes, per_token=self.per_token)

    def schemas(self) -> dict[str, pa.Schema]:
        """Schema of every table by name: those of the widths, then the documents', the quarantine's last."""
        found = {self.table(width): self.schema(width) for width in self.widths}
        if self.documents is not None:
            found[self.documents] = documents_schema(self.payload)
        return found | {self.quarantine: QUARANTINE_SCHEMA}

    def describe(self) -> dict[str, Any]:
        """What another run must share to write into the same tables, as JSON-ready values."""
        return {
            "widths": list(self.widths),
            "precision": self.precision,
            "metric": self.metric,
            "payload": {field.name: str(field.type) for field in self.payload},
            # Left out where it is not so: names of shards that were staged before there were hashes stay.
            **({"chunk_hashes": True} if self.chunk_hashes else {}),
            **({"repeated": list(self.repeated)} if self.repeated is not None else {}),
            **({"per_token": True} if self.per_token else {}),
        }

    @property
    def digest(self) -> str:
        """Digest of :meth:`describe`."""
        return hashlib.blake2b(json.dumps(self.describe(), sort_keys=True).encode(), digest_size=16).hexdigest()

    def _name(self, suffix: str) -> str:
        """Name of a table with a suffix, with the generation in it from the second one on."""
        return f"{self.name}_{suffix}" if self.generation == 1 else f"{self.name}_g{self.generation}_{suffix}"
