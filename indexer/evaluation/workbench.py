"""Tables to try configurations on: the published ones where they serve, else copies beside the results.

A copy differs from the published table in what is evaluated (width, precision, index) and, where documents are asked
for by their own words, in these documents' texts and vectors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.errors import IndexerError
from indexer.evaluation.configurations import Configuration
from indexer.evaluation.trial import Trial
from indexer.inference import matryoshka
from indexer.inference.sequences import TokenSequences
from indexer.search.published import Published
from indexer.search_settings import TextSettings
from indexer.storage import cleanup, scratch, tables, text_index, vector_index
from indexer.storage.description import TextRecord
from indexer.storage.records import DocumentsState, TableState
from indexer.storage.vector_index import NO_INDEX

RECALL_QUERIES = 100

DOCUMENTS = "documents"
"""Name of the copy of the table of documents."""


@dataclass(frozen=True)
class RewrittenDocuments:
    """Documents with other texts than their own.

    Attributes:
        rows: Their rows in the index's schema, without vectors.
        vectors: float32, shape (rows, dimension).
    """

    rows: pa.Table
    vectors: np.ndarray

    @cached_property
    def ids(self) -> pa.Array:
        """Ids of the documents."""
        return pc.unique(self.rows[schema.ID].combine_chunks())


class Workbench:
    """Makes trials; copies are made once for all that need them, and dropped at the end."""

    def __init__(self, published: Published, uri: str, altered: RewrittenDocuments | None, recall: float) -> None:
        """Describes the workbench.

        Args:
            published: The index.
            uri: LanceDB database for the copies.
            altered: Documents that are asked for by their own words.
            recall: Recall up to which partitions of a vector index are looked into.
        """
        self._published = published
        self._uri = uri
        self._altered = altered
        self._recall = recall
        self._own = {state.width: state for state in published.epoch.tables}
        self._copies: dict[tuple[Any, ...], TableState] = {}
        self._documents: DocumentsState | None = None
        self._searched: dict[str, TableState | DocumentsState] = {}

    def trial(self, configuration: Configuration) -> Trial:
        """The tables of a configuration.

        Raises:
            SettingsError: The payload has not the text that is to be searched.
            IndexerError: They cannot be made.
        """
        found = [self._published_state(configuration, width) for width in configuration.widths]
        states = [state for state in found if state is not None]
        uri, documents = self._published.uri, self._published.epoch.documents
        text = self._published_text() if configuration.mode != "vector" else None
        if len(states) < len(found) or (configuration.mode != "vector" and text is None):
            uri, documents = self._uri, self._copied_documents()
            states = [self._copied(configuration, width) for width in configuration.widths]
            if configuration.mode != "vector":
                text = self._with_text(documents or states[-1])
        indexed = sum(
            scratch.index_bytes(uri, state.name, state.version, [schema.VECTOR]) for state in states if state.probes
        )
        opened = {state.width: state for state in states}
        if text is not None:
            indexed += scratch.index_bytes(uri, text.name, text.version, text.text, text_index.INVERTED)
        if isinstance(text, TableState):
            opened[text.width] = text
        elif text is not None:
            documents = text
        update = {"tables": list(opened.values()), "documents": documents}
        table_bytes = sum(state.bytes for state in states) + (0 if documents is None else documents.bytes)
        opened_epoch = self._published.epoch.model_copy(update=update)
        return Trial(configuration, self._published.at(uri, opened_epoch), table_bytes, indexed)

    @cached_property
    def text(self) -> TextRecord:
        """Full-text search as the index has it; for an index without, of the columns that hold its texts.

        Raises:
            SettingsError: The payload does not have them.
        """
        published = self._published.epoch.description.text
        return published or TextRecord(columns=self._published.text_columns, **TextSettings().model_dump())

    def drop(self) -> None:
        """Deletes the copies."""
        documents = [] if self._documents is None else [self._documents.name]
        for name in {*(state.name for state in self._copies.values()), *documents}:
            cleanup.drop(self._uri, name, scratch.OWNER)
        cleanup.remove_empty(self._uri)

    def _published_state(self, configuration: Configuration, width: int) -> TableState | None:
        """The published table of a width, where it is as the configuration wants it."""
        state = self._own.get(width)
        if state is None or self._altered is not None or configuration.precision != self._precision:
            return None
        if width != configuration.width or configuration.index == NO_INDEX:
            return state.model_copy(update={"index": NO_INDEX, "probes": None})
        return state if state.index == configuration.index else None

    def _copied(self, configuration: Configuration, width: int) -> TableState:
        """The table of a configuration, with its vector index only where it is searched."""
        index = configuration.index if width == configuration.width else NO_INDEX
        plain = self._copy(
            ("plain", width, configuration.precision), f"d{width}_{configuration.precision}", self._plain
        )
        return plain if index == NO_INDEX else self._indexed(plain, configuration.precision, index)

    def _copy(self, key: tuple[str, int, str], name: str, write: Callable[[str, int, str], None]) -> TableState:
        """A copy by its key, made when it is first asked for."""
        if key not in self._copies:
            write(name, *key[1:])
            vector_index.maintain(self._uri, name, NO_INDEX, self._metric)
            found = vector_index.measure(self._uri, name)
            self._copies[key] = TableState(
                name=name,
                width=key[1],
                version=found.version,
                rows=found.rows,
                bytes=found.bytes,
                index=NO_INDEX,
                probes=None,
                trained_rows=None,
            )
        return self._copies[key]

    def _indexed(self, plain: TableState, precision: str, index: str) -> TableState:
        """A later version of a copy: earlier ones keep the index they had."""
        key = (index, plain.width, precision)
        if key not in self._copies:
            version = scratch.build_vector_index(self._uri, plain.name, index, self._metric)
            found = vector_index.measure_recall(
                self._uri, plain.name, version, self._metric, RECALL_QUERIES, self._recall
            )
            update = {"version": version, "index": index, "probes": found.probes, "trained_rows": plain.rows}
            self._copies[key] = plain.model_copy(update=update)
        return self._copies[key]

    def _published_text(self) -> TableState | DocumentsState | None:
        """The published table with the full-text index, if it has the texts that are evaluated."""
        found = self._published.epoch.text_table
        if found is None or self._altered is not None:
            return None
        return found.model_copy(update={"index": NO_INDEX, "probes": None} if isinstance(found, TableState) else {})

    def _with_text(self, plain: TableState | DocumentsState) -> TableState | DocumentsState:
        """A later version of a copy, with full-text indices."""
        if plain.name not in self._searched:
            version = scratch.index_text(self._uri, plain.name, self.text)
            self._searched[plain.name] = plain.model_copy(update={"version": version, "text": self.text.columns})
        return self._searched[plain.name]

    def _copied_documents(self) -> DocumentsState | None:
        """A copy of the table of documents, altered ones as they are altered; ``None`` for an index without it."""
        source = self._published.epoch.documents
        if source is None or self._documents is not None:
            return self._documents
        target = tables.table_schema(self._published.uri, source.name, source.version).remove_metadata()
        scratch.write(self._uri, DOCUMENTS, target, self._document_batches(source, target.names))
        vector_index.maintain(self._uri, DOCUMENTS, NO_INDEX, self._metric)
        found = vector_index.measure(self._uri, DOCUMENTS)
        self._documents = DocumentsState(name=DOCUMENTS, version=found.version, rows=found.rows, bytes=found.bytes)
        return self._documents

    def _document_batches(self, source: DocumentsState, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows of the table of documents, altered documents as they are altered."""
        for batch in tables.read(self._published.uri, source.name, source.version, columns):
            yield self._unaltered(batch)
        if self._altered is not None:
            first = self._altered.rows.filter(pc.equal(self._altered.rows[schema.CHUNK], 0))
            yield from first.select(list(columns)).to_batches()

    def _unaltered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of documents that are not altered."""
        if self._altered is None:
            return batch
        return batch.filter(pc.invert(pc.is_in(batch[schema.ID], value_set=self._altered.ids)))

    def _plain(self, name: str, width: int, precision: str) -> None:
        """Writes a copy of the rows with vectors of a width and precision."""
        target = self._schema(width, precision)
        scratch.write(self._uri, name, target, self._batches(width, precision, target.names[:-1]))

    def _batches(self, width: int, precision: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows of the index with vectors of a width and precision, altered documents as they are altered."""
        source = width if width in self._own else None
        target = pa.schema([self._schema(width, precision).field(name) for name in (*columns, schema.VECTOR)])
        for batch in self._published.batches([*columns, schema.VECTOR], source):
            kept = self._unaltered(batch)
            yield _with_vectors(kept, tables.to_matrix(kept[schema.VECTOR]), width, precision, target)
        if self._altered is not None:
            for rows in self._altered.rows.select(list(columns)).combine_chunks().to_batches():
                yield _with_vectors(rows, self._altered.vectors, width, precision, target)

    def _schema(self, width: int, precision: str) -> pa.Schema:
        """Columns of a copy: those that the widest table stores."""
        widest = self._published.state()
        source = tables.table_schema(self._published.uri, widest.name, widest.version)
        vector = pa.field(schema.VECTOR, pa.list_(schema.ARROW_PRECISION[precision], width), nullable=False)
        return pa.schema([*(field for field in source if field.name != schema.VECTOR), vector])

    @property
    def _precision(self) -> str:
        return self._published.epoch.description.layout.precision

    @property
    def _metric(self) -> str:
        return self._published.epoch.description.layout.metric


def rewrite(
    published: Published, texts: Mapping[str, str], embed: Callable[[TokenSequences], np.ndarray]
) -> RewrittenDocuments:
    """Rows and vectors of documents with other texts.

    Args:
        published: The index the documents are of.
        texts: Their texts by id.
        embed: Gives vectors of token ids.

    Returns:
        The rows, chunked and embedded as the index's own.

    Raises:
        IndexerError: A text has no tokens.
    """
    tokens = published.model.tokenizer.documents(list(texts.values()))
    if tokens.rejected:
        raise IndexerError(
            f"{len(tokens.rejected)} of {len(texts)} documents without their known items cannot be embedded: "
            f"{tokens.rejected[0][1]}"
        )
    names = [field.name for field in published.schema() if field.name != schema.VECTOR]
    rows = published.rows(list(texts), names).to_pylist()
    known = {row[schema.ID]: row for row in rows if row[schema.CHUNK] == 0}
    first, *others = published.text_columns
    # Another searched column, such as a title, may hold the query.
    searched = published.epoch.description.text
    others += [name for name in (searched.columns if searched else []) if name not in {first, *others}]
    made = []
    for at, name in enumerate(texts):
        known[name] |= {first: texts[name], **dict.fromkeys(others)}
        for chunk in np.flatnonzero(tokens.row == at):
            span = {schema.CHAR_START: int(tokens.char_start[chunk]), schema.CHAR_END: int(tokens.char_end[chunk])}
            made.append((int(chunk), known[name] | {schema.CHUNK: int(tokens.chunk[chunk])} | span))
    target = pa.schema([published.schema().field(name) for name in names])
    vectors = embed(tokens.ids)[[chunk for chunk, _ in made]]
    return RewrittenDocuments(pa.Table.from_pylist([row for _, row in made], target), vectors)


def _with_vectors(
    rows: pa.RecordBatch, vectors: np.ndarray, width: int, precision: str, target: pa.Schema
) -> pa.RecordBatch:
    """A batch with its vectors cut to a width."""
    columns = [rows[name] for name in target.names[:-1]]
    return pa.RecordBatch.from_arrays(
        [*columns, matryoshka.fixed_size_list(matryoshka.cut(vectors, width), precision)], schema=target
    )
