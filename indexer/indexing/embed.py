"""A shard of documents end to end: read, tokenise, embed, cut to widths, stage, receipt."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.cluster.pipeline import Pipeline
from indexer.corpus.documents import DocumentBatch, read_part
from indexer.corpus.shards import FileRows, Shard
from indexer.indexing.chunks import chunk_hashes, known_chunks
from indexer.indexing.job import Target
from indexer.indexing.quarantine import each_part, quarantine_rows
from indexer.inference import matryoshka
from indexer.inference.embed_inputs import EmbedTokenizer, TokenBatch
from indexer.inference.engine import Embedder
from indexer.inference.model import Model
from indexer.inference.sequences import TokenSequences
from indexer.inference.text_vectors import NONE, TextVectors
from indexer.progress import Stopwatch
from indexer.reasons import QuarantineReason
from indexer.schema import Layout
from indexer.steps import step
from indexer.storage import tables, vector_columns
from indexer.storage.control import ControlStore
from indexer.storage.records import Receipt


@dataclass
class Batch:
    """Some documents of a shard in flight; their texts are dropped once they are tokens.

    Attributes:
        hashes: Hash of every chunk's ids, where tables have them.
        known: Numbers of the chunks whose vectors are published.
        known_vectors: Their vectors.
        vectors: Vectors of every chunk, at full width; of known ones up to their width.
    """

    ids: pa.Array
    payload: pa.Table
    content_hash: pa.Array
    payload_hash: pa.Array
    file: str
    rows: np.ndarray
    tokens: TokenBatch
    refused: dict[int, QuarantineReason]
    hashes: list[bytes] = field(default_factory=list)
    known: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    known_vectors: TextVectors = NONE
    vectors: TextVectors = NONE

    @property
    def kept(self) -> np.ndarray:
        """bool, shape (chunks,): chunks of documents that are not refused."""
        return ~np.isin(self.tokens.row, list(self.refused))

    @property
    def unknown(self) -> np.ndarray:
        """int64: numbers of the chunks to embed."""
        return np.setdiff1d(np.arange(len(self.tokens.ids)), self.known)

    @property
    def embedded_tokens(self) -> int:
        """Tokens of the chunks to embed."""
        return self.tokens.ids.tokens - int(self.tokens.ids.lengths[self.known].sum())

    @property
    def embedded_chunks(self) -> int:
        """Chunks to embed."""
        return len(self.tokens.ids) - self.known.size

    def fill(self, embedded: TextVectors) -> None:
        """Takes the vectors of the unknown chunks, and adds the known ones."""
        if not self.known.size:
            self.vectors = embedded
            return
        unknown = self.unknown
        counts = np.zeros(len(self.tokens.ids), np.int64)
        counts[self.known], counts[unknown] = self.known_vectors.counts, embedded.counts
        self.vectors = TextVectors(np.zeros((int(counts.sum()), embedded.flat.shape[1]), np.float32), counts)
        flat, width = self.vectors.flat, self.known_vectors.flat.shape[1]
        flat[self.vectors.places(self.known), :width] = self.known_vectors.flat
        flat[self.vectors.places(unknown)] = embedded.flat


@dataclass
class ShardInFlight:
    """A shard between its files and its receipt.

    Attributes:
        batches: Its documents.
        unread: Quarantine rows of files that changed or vanished since the comparison.
        sampled: Number of the sampled row among the kept ones.
        again: That row's vectors, computed again alone: float32, shape (its vectors, dimension); empty without rows.
    """

    batches: list[Batch]
    unread: pa.Table
    sampled: int = 0
    again: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))


class EmbedPipeline(Pipeline[Shard, Embedder, ShardInFlight, Receipt]):
    """Takes shards to receipts on one engine in embed mode."""

    def __init__(self, target: Target, model: Model) -> None:
        """Starts the engine.

        Args:
            target: Where the rows go.
            model: Gives the tokenizer and the engine.

        Raises:
            SettingsError: A width is not possible with the engine's dimension.
            RefusedError: The engine does not reproduce the published vectors.
        """
        self._target = target
        self._control = ControlStore(target.uri, target.layout.name)
        self._tokenizer = model.tokenizer
        super().__init__(partial(_admitted, model, target, self._control))

    def _read(self, piece: Shard, watch: Stopwatch) -> ShardInFlight:
        """Reads and tokenises the shard's documents; files that became unreadable give quarantine rows."""

        def read(part: FileRows) -> list[Batch]:
            return list(self._batches(part, watch))

        batches, unread = each_part(self._control, self._target.corpus, piece, read)
        return ShardInFlight(batches, unread, sampled=int(piece.shard_id, 16))

    def _batches(self, part: FileRows, watch: Stopwatch) -> Iterator[Batch]:
        """Documents of one part, tokenised batch by batch."""
        documents = read_part(self._target.corpus, part)
        while True:
            with watch("read"):
                batch = next(documents, None)
            if batch is None:
                return
            with watch("tokenise"):
                tokenised = _tokenised(batch, self._tokenizer)
                if self._target.layout.chunk_hashes:
                    tokenised.hashes = chunk_hashes(tokenised.tokens.ids)
            if self._target.chunks is not None:
                with watch("read"):
                    found = known_chunks(self._target.chunks, batch.ids, tokenised.tokens, tokenised.hashes)
                    tokenised.known, tokenised.known_vectors = found
            yield tokenised

    def _compute(self, held: ShardInFlight, watch: Stopwatch) -> None:
        """Embeds all batches at once, then one sampled sequence again alone.

        A batch may have a few chosen rows only, and a GPU takes as long for a step of them as for a full one.
        """
        with watch("engine"):
            wanted = TokenSequences.join([batch.tokens.ids.take(batch.unknown) for batch in held.batches])
            vectors = self._embedded(wanted)
            start = 0
            for batch in held.batches:
                batch.fill(vectors.part(start, start + batch.embedded_chunks))
                start += batch.embedded_chunks
                self._refuse_unusable(batch)
            kept = TokenSequences.join([batch.tokens.ids.take(batch.kept) for batch in held.batches])
            if len(kept):
                held.sampled %= len(kept)
                held.again = self._embedded(kept.take([held.sampled])).flat

    def _embedded(self, ids: TokenSequences) -> TextVectors:
        """The vectors of chunks that are stored, at full width."""
        if not len(ids):
            return TextVectors(np.empty((0, self._engine.dimension), np.float32), np.empty(0, np.int64))
        return TextVectors.of(self._engine.embed(ids), ids, self._tokenizer.stored(ids))

    def _refuse_unusable(self, batch: Batch) -> None:
        """Recomputes alone a chunk with a vector that is not finite or has no norm; else refuses its document."""
        narrowest = min(self._target.layout.widths)
        vectors = batch.vectors
        for sequence in vectors.owners(matryoshka.unusable_rows(vectors.flat, narrowest)):
            again = self._embedded(batch.tokens.ids.take([sequence]))
            if matryoshka.unusable_rows(again.flat, narrowest).size:
                batch.refused[int(batch.tokens.row[sequence])] = QuarantineReason.BAD_VECTOR
            else:
                vectors[sequence][:] = again.flat

    def _store(self, piece: Shard, held: ShardInFlight, watch: Stopwatch) -> Receipt:
        """Stages the rows of every table and puts the receipt."""
        batches = held.batches
        layout = self._target.layout
        with watch("widths"):
            staged = {name: table for name, table in _tables(batches, layout).items() if table.num_rows}
            refused = [_quarantined(batch, piece.shard_id) for batch in batches]
            quarantine = pa.concat_tables([held.unread, *refused])
        with watch("stage"):
            if quarantine.num_rows:
                staged[layout.quarantine] = quarantine
            fragments = {name: tables.stage(self._target.uri, name, table) for name, table in staged.items()}
        chunks = sum(int(batch.kept.sum()) for batch in batches)
        receipt = Receipt(
            shard_id=piece.shard_id,
            fragments=fragments,
            documents=piece.documents - quarantine.num_rows,
            chunks=chunks,
            quarantined=quarantine.num_rows,
            reasons=Counter(quarantine["reason"].to_pylist()),
            unread=held.unread.num_rows,
            truncated=sum(int((batch.tokens.truncated & batch.kept).sum()) for batch in batches),
            tokens=sum(batch.embedded_tokens for batch in batches),
            embedded=sum(batch.embedded_chunks for batch in batches),
            sampled_cosine=self._sampled_cosine(held, fragments),
            seconds=watch.seconds,
        )
        return self._control.receipts(self._target.epoch).put(receipt)

    def _sampled_cosine(self, held: ShardInFlight, fragments: Mapping[str, list[dict[str, Any]]]) -> float | None:
        """Cosine of a stored vector to the recomputed one: checks order, cut, precision and writing in one number.

        Of a row with several vectors it is the least one.
        """
        if not held.again.size:
            return None
        width = max(self._target.layout.widths)
        name = self._target.layout.table(width)
        stored = tables.read_staged_vectors(self._target.uri, name, fragments[name], held.sampled)
        again = matryoshka.cut(held.again, width)
        if len(stored) != len(again):
            return -1.0
        cosines = (stored * again).sum(axis=1) / np.maximum(np.linalg.norm(stored, axis=1), 1e-12)
        return float(cosines.min())


def _admitted(model: Model, target: Target, control: ControlStore) -> Embedder:
    """Starts an engine and compares it with the published vectors; runs in the engine's thread."""
    engine = model.engine()
    matryoshka.check(target.layout.widths, engine.dimension)
    if target.admit is not None:
        with step("comparing the engine with published vectors"):
            # A worker has a tokenizer that is ready; the driver would spend a second on making one so.
            target.admit(engine, control, model.probe_ids)
    return engine


def _tokenised(documents: DocumentBatch, tokenizer: EmbedTokenizer) -> Batch:
    """Tokenises a batch; documents that the tokenizer rejects are refused."""
    tokens = tokenizer.documents(documents.texts)
    return Batch(
        ids=pa.array(documents.ids, pa.string()),
        payload=documents.payload,
        content_hash=documents.content_hash,
        payload_hash=documents.payload_hash,
        file=documents.file,
        rows=documents.rows,
        tokens=tokens,
        refused={row: QuarantineReason(reason) for row, reason in tokens.rejected},
    )


def _tables(batches: Sequence[Batch], layout: Layout) -> dict[str, pa.Table]:
    """Rows of every table; the width tables share all columns but the vector."""
    schemas = layout.schemas()
    parts: dict[str, list[pa.Table]] = {}
    for batch in batches:
        kept = batch.kept
        chunks = _columns(batch, kept, schemas[layout.table(layout.widths[0])])
        stored = batch.vectors.take(kept)
        vectors = matryoshka.columns(stored.flat, layout.widths, layout.precision)
        if layout.per_token:
            vectors = {width: vector_columns.grouped(column, stored.counts) for width, column in vectors.items()}
        found = {layout.table(width): chunks | {schema.VECTOR: column} for width, column in vectors.items()}
        if layout.documents is not None:
            found[layout.documents] = _columns(batch, kept & (batch.tokens.chunk == 0), schemas[layout.documents])
        for name, columns in found.items():
            target = schemas[name]
            parts.setdefault(name, []).append(pa.table([columns[field] for field in target.names], schema=target))
    return {name: pa.concat_tables(tables_) for name, tables_ in parts.items()}


def _columns(batch: Batch, kept: np.ndarray, target: pa.Schema) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Columns of a table but its vectors, one row per kept chunk; of the payload those that the table has."""
    document = pa.array(batch.tokens.row[kept])
    hashes = pa.array(batch.hashes, schema.CHUNK_HASH_TYPE)
    payload = [name for name in batch.payload.schema.names if name in target.names]
    return {
        schema.ID: batch.ids.take(document),
        schema.CHUNK: pa.array(batch.tokens.chunk[kept]),
        schema.CHAR_START: pa.array(batch.tokens.char_start[kept]),
        schema.CHAR_END: pa.array(batch.tokens.char_end[kept]),
        **{name: batch.payload.column(name).take(document) for name in payload},
        schema.CONTENT_HASH: batch.content_hash.take(document),
        schema.PAYLOAD_HASH: batch.payload_hash.take(document),
        **({schema.CHUNK_HASH: hashes.filter(pa.array(kept))} if len(batch.hashes) == len(kept) else {}),
    }


def _quarantined(batch: Batch, shard_id: str) -> pa.Table:
    """Quarantine rows of a batch's refused documents."""
    refused = sorted(batch.refused)
    documents = pa.array(refused, pa.int32())
    columns = {
        schema.ID: batch.ids.take(documents),
        "row": pa.array(batch.rows[refused], pa.int64()),
        "reason": pa.array([batch.refused[row].value for row in refused], pa.string()),
        "detail": pa.array([batch.refused[row].description for row in refused], pa.string()),
        schema.CONTENT_HASH: batch.content_hash.take(documents),
        schema.PAYLOAD_HASH: batch.payload_hash.take(documents),
    }
    return quarantine_rows(pa.table(columns), shard=shard_id, file=batch.file)
