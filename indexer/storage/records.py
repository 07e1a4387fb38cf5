"""The records that control files hold: receipts, intents, epochs."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self

import pyarrow as pa
from pydantic import Field

from indexer.storage.description import Description
from indexer.storage.put_once import Record
from indexer.storage.receipts import ShardRecord


class Receipt(ShardRecord):
    """One shard is staged for every table.

    Attributes:
        fragments: For each table the uncommitted Lance fragments, as Lance describes them.
        documents: Documents indexed.
        chunks: Rows per width table.
        quarantined: Documents refused.
        unread: Of these, documents of files that changed or went away before they were read.
        truncated: Documents cut at the token limit.
        tokens: Tokens the engine read.
        sampled_cosine: Cosine of one stored vector, read back, to the one its tokens give when embedded again alone;
            ``None`` where nothing was indexed.
        seconds: Seconds per stage of the pipeline.
        embedded: Chunks that the engine read; ``None`` in receipts of versions that did not count them.
        reasons: The refused documents by reason; empty in receipts of versions that did not record it.
    """

    fragments: dict[str, list[dict[str, Any]]]
    documents: int
    chunks: int
    quarantined: int
    unread: int
    truncated: int
    tokens: int
    sampled_cosine: float | None
    seconds: dict[str, float]
    embedded: int | None = None
    reasons: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def without_engine(
        cls,
        shard_id: str,
        fragments: dict[str, list[dict[str, Any]]],
        *,
        documents: int = 0,
        chunks: int = 0,
        unread: Sequence[str] = (),
    ) -> Self:
        """The receipt of a shard of which nothing was embedded.

        Args:
            shard_id: The shard.
            fragments: As the attribute, like the next two.
            documents: Documents indexed.
            chunks: Rows per width table.
            unread: Reason of every document that could not be read.
        """
        return cls(
            shard_id=shard_id,
            fragments=fragments,
            documents=documents,
            chunks=chunks,
            quarantined=len(unread),
            unread=len(unread),
            truncated=0,
            tokens=0,
            embedded=0,
            sampled_cosine=None,
            seconds={},
            reasons=Counter(unread),
        )


class Sums(Record):
    """What a table holds without its vectors, as :class:`indexer.publishing.identity.Identity` has it.

    Attributes:
        rows: Rows.
        documents: Rows with chunk 0.
        digest: Sum of hashes of keys and contents over all rows, hexadecimal.
        first: The same over the rows with chunk 0.
        hashing: What the hashes were made with.
    """

    rows: int
    documents: int
    digest: str
    first: str
    hashing: str


class RecallRecord(Record):
    """A measurement of a vector index against exact search. It holds until enough of the table differs.

    Attributes:
        share: Mean share of the 10 nearest rows that the index found.
        probes: Partitions each query looked into.
        rows: Rows of the table.
        queries: The setting ``gates.recall_queries``.
        wanted: The setting ``gates.recall``.
        segments: UUIDs of the index's segments.
        epoch: The epoch for which it was made.
    """

    share: float
    probes: int
    rows: int
    queries: int
    wanted: float
    segments: list[str]
    epoch: int


class Intent(Record):
    """Everything an epoch will be, so that any process can finish it.

    Attributes:
        epoch: Its number.
        generation: Generation of the tables.
        bases: Published version of every table the epoch starts from, 0 where it starts from nothing.
        widths: Width of every width table by name, widest first.
        documents_table: Name of the table of documents, ``None`` without.
        quarantine_table: Name of the quarantine table.
        vector_index: The setting: ``auto``, ``none`` or an index type.
        trained_rows: Rows each vector index was last trained on.
        receipts: Shards whose fragments are added.
        quarantine: Fragments that the driver staged. With the receipts' fragments they replace the quarantine table.
        removals: Files with the ids whose rows are deleted.
        documents: Documents each table must then hold.
        metadata: Schema metadata every table gets.
        description: What the epoch file says of the run.
        columns: Columns of every table that starts from nothing, as :func:`encoded_columns` gives them. Intents of
            versions without this key keep the columns that the table has.
        sums: Of tables whose sums follow from those of their base; the others are read in full.
        recalls: Earlier measurements of vector indices that stay; the others are measured.
    """

    epoch: int
    generation: int
    bases: dict[str, int]
    widths: dict[str, int]
    quarantine_table: str
    vector_index: str
    trained_rows: dict[str, int]
    receipts: list[str]
    quarantine: list[dict[str, Any]]
    removals: list[str]
    documents: int
    metadata: dict[str, str]
    description: Description
    columns: dict[str, str] = Field(default_factory=dict)
    sums: dict[str, Sums] = Field(default_factory=dict)
    recalls: dict[str, RecallRecord] = Field(default_factory=dict)
    documents_table: str | None = None

    @property
    def digest(self) -> str:
        """Digest of the whole intent: two runs may make different ones for one epoch."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()


class TableState(Record):
    """One published width table.

    Attributes:
        name: Table name.
        width: Matryoshka width.
        version: Lance version readers check out.
        rows: Rows.
        bytes: Size of its data files.
        index: Type of the vector index, ``none`` where there is none.
        probes: Partitions of the vector index that a query searches to reach the configured recall.
        trained_rows: Rows the vector index was last trained on.
        text: Columns with a full-text index; one of the tables has them.
        filters: Kind of scalar index by column.
        search_bytes: Size of these indices.
        sums: What the table holds; ``None`` in epochs of versions that did not record it.
        recall: The last measurement of its vector index; ``None`` without one, and in epochs of such versions.
    """

    name: str
    width: int
    version: int
    rows: int
    bytes: int
    index: str
    probes: int | None
    trained_rows: int | None
    text: list[str] = Field(default_factory=list)
    filters: dict[str, str] = Field(default_factory=dict)
    search_bytes: int = 0
    sums: Sums | None = None
    recall: RecallRecord | None = None


class DocumentsState(Record):
    """The published table of documents. Its attributes are those of :class:`TableState`."""

    name: str
    version: int
    rows: int
    bytes: int
    text: list[str] = Field(default_factory=list)
    filters: dict[str, str] = Field(default_factory=dict)
    search_bytes: int = 0
    sums: Sums | None = None


class Epoch(Record):
    """A published state of the index.

    Attributes:
        number: Counts up from 1.
        generation: Generation of the tables.
        published: Time of publication, ISO 8601 in UTC. It informs people and decides nothing.
        tables: The width tables, widest first.
        quarantine: Name and version of the quarantine table.
        description: As in the intent.
        intent: Digest of its intent; empty if a version before 0.2 made it.
        documents: The table of documents; ``None`` where the width tables have the whole payload.
    """

    number: int
    generation: int
    published: str
    tables: list[TableState]
    quarantine: tuple[str, int]
    description: Description
    intent: str = ""
    documents: DocumentsState | None = None

    @property
    def searched(self) -> list[TableState | DocumentsState]:
        """All tables but the quarantine, the width tables first, widest first."""
        return [*self.tables, *([self.documents] if self.documents is not None else [])]

    @property
    def payload_table(self) -> TableState | DocumentsState:
        """The smallest table with the whole payload: that of documents, else the narrowest."""
        return self.searched[-1]

    @property
    def text_table(self) -> TableState | DocumentsState | None:
        """The table with the full-text index."""
        return next((table for table in self.searched if table.text), None)

    def versions(self) -> dict[str, int]:
        """Version of every table by name."""
        return {table.name: table.version for table in self.searched} | dict([self.quarantine])


def encoded_columns(columns: pa.Schema) -> str:
    """A schema as base64 of Arrow's own serialised form, for JSON."""
    return base64.b64encode(columns.serialize()).decode()


def decoded_columns(text: str) -> pa.Schema:
    """The inverse of :func:`encoded_columns`."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def canonical(value: object) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
