"""Search in the published tables of an index, with vectors and scores from local engines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from indexer import schema
from indexer.errors import SettingsError, first_line
from indexer.inference import matryoshka
from indexer.inference.model import Model, Reranker, open_model, open_reranker
from indexer.search.hits import DISTANCE, Hit, joined_text, make_hit, shown_columns, span_text
from indexer.settings import EngineSettings, ModelSettings, RerankerSettings
from indexer.storage import tables, vector_index
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch, TableState, differing

MEMORY = "gpu_memory_utilization"
"""vLLM's argument for the share of a GPU's memory that an engine takes."""


class Published:
    """One epoch of an index, whatever is published later."""

    def __init__(self, uri: str, epoch: Epoch, engine: EngineSettings, reranker: Reranker | None) -> None:
        """Wraps an epoch; use :func:`open_published`."""
        self.uri = uri
        self.epoch = epoch
        self._engine_settings = engine
        self._reranker = reranker

    def table(self, width: int | None = None) -> Any:  # a lancedb table, whose module is not ours to import
        """LanceDB table of a width, the widest by default, at the published version.

        Raises:
            SettingsError: There is no table of that width.
        """
        state = self._state(width)
        return tables.search_table(self.uri, state.name, state.version)

    def read(self, width: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a width's table as Arrow.

        Args:
            width: Width, the widest by default.
            columns: Columns to read, all by default.

        Returns:
            The rows, in no particular order.
        """
        target = self.schema(width)
        chosen = list(columns or target.names)
        return pa.Table.from_batches(self.batches(chosen, width), pa.schema([target.field(name) for name in chosen]))

    def schema(self, width: int | None = None) -> pa.Schema:
        """Schema of a width's table."""
        state = self._state(width)
        return tables.table_schema(self.uri, state.name, state.version)

    def batches(self, columns: Sequence[str], width: int | None = None) -> Iterator[pa.RecordBatch]:
        """Streams columns of a width's table, rows in no particular order."""
        state = self._state(width)
        yield from tables.read(self.uri, state.name, state.version, columns)

    def at(self, uri: str, epoch: Epoch) -> "Published":
        """The same index with other tables: copies of these, or some of them."""
        return Published(uri, epoch, self._engine_settings, self._reranker)

    def quarantine(self) -> pa.Table:
        """Rows of the quarantine, :data:`indexer.schema.QUARANTINE_SCHEMA`."""
        name, version = self.epoch.quarantine
        batches = tables.read(self.uri, name, version, schema.QUARANTINE_SCHEMA.names)
        return pa.Table.from_batches(batches, schema.QUARANTINE_SCHEMA)

    @cached_property
    def model(self) -> Model:
        """The model that made the vectors; another one's queries would meet nothing.

        Raises:
            SettingsError: The model found now has another fingerprint.
        """
        known = self.epoch.description.model.model_dump(include=set(ModelSettings.model_fields))
        model = open_model(ModelSettings(**known), self._engine_settings)
        ours, theirs = model.fingerprint, self.epoch.description.fingerprint
        others = differing(ours, theirs)
        if others:
            pairs = "; ".join(f"{key}: index {theirs.get(key)}, query model {ours.get(key)}" for key in others)
            raise SettingsError(f"the query model is not the one that made the vectors: {pairs}")
        return model

    @property
    def text_columns(self) -> list[str]:
        """Payload columns that hold the documents' text.

        Raises:
            SettingsError: The payload does not have them.
        """
        columns = self.epoch.description.text_columns
        missing = sorted(set(columns) - set(self.epoch.description.layout.payload))
        if missing:
            raise SettingsError(
                f"the tables do not hold the text: add {', '.join(missing)} to corpus.payload and reindex"
            )
        return columns

    def embed(self, queries: Sequence[str], instructions: Sequence[str | None] | None = None) -> np.ndarray:
        """Full-width vectors of queries, with the model's instruction template.

        Args:
            queries: Questions.
            instructions: A task for each, ``None`` for the one the index was built with.

        Returns:
            float32, shape (len(queries), dimension), unit norm.
        """
        return self._engine.embed(self.model.tokenizer.queries(queries, instructions))

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        width: int | None = None,
        where: str | None = None,
        rerank: int | None = None,
    ) -> list[list[Hit]]:
        """Nearest chunks of each query.

        Args:
            queries: Questions.
            k: Results per query.
            width: Width to search at, the widest by default.
            where: SQL condition on columns of the table, e.g. ``"kind = 'class'"``.
            rerank: Candidates per query that the reranker puts into its own order before the first ``k`` are given.

        Returns:
            For each query its hits, best first.

        Raises:
            SettingsError: There is no such width, the condition is not valid, or nothing can rerank.
        """
        self._state(width)  # refuses before an engine starts
        columns = [] if rerank is None else self.text_columns
        vectors = self.embed(queries)
        if rerank is None:
            return self.nearest(vectors, k, width, where)
        found = self.nearest(vectors, max(k, rerank), width, where)
        pairs = [(query, hit.text(columns)) for query, hits in zip(queries, found, strict=True) for hit in hits]
        scores = iter(self.score(pairs).tolist())
        reranked = [[replace(hit, score=next(scores)) for hit in hits] for hits in found]
        return [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in reranked]

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Probability, for each pair of a query and a document, that the document answers the query.

        Args:
            pairs: Queries with documents.

        Returns:
            float32, shape (len(pairs),).

        Raises:
            SettingsError: The index was opened without a reranker.
        """
        if self._reranker is None:
            raise SettingsError("no reranker: name one when opening the index, or with --rerank")
        if not pairs:
            return np.empty(0, np.float32)
        batch = self._reranker.tokenizer.pairs(*zip(*pairs, strict=True))
        return self._scorer.score(batch.ids, batch.second)

    def nearest(
        self,
        vectors: np.ndarray,
        k: int = 10,
        width: int | None = None,
        where: str | None = None,
        oversample: int = 1,
        columns: Sequence[str] | None = None,
    ) -> list[list[Hit]]:
        """Nearest chunks of each vector.

        Args:
            vectors: float32, shape (n, dimension): full-width query vectors.
            k: Results per vector.
            width: Width to search at, the widest by default.
            where: SQL condition on columns of the table.
            oversample: Above 1, this many times ``k`` are searched for and the best at the full width are kept.
            columns: Payload columns and span of the hits, all by default.

        Returns:
            For each vector its hits, best first.

        Raises:
            SettingsError: There is no such width, or the condition is not valid.
        """
        state = self._state(width)
        table = self.table(width)
        narrow = matryoshka.cut(vectors, state.width)
        shown = [
            schema.ID,
            schema.CHUNK,
            *(shown_columns(table.schema.names) if columns is None else columns),
            DISTANCE,
        ]
        found = [self._nearest(table.search(vector).select(shown), state, k * oversample, where) for vector in narrow]
        if oversample == 1:
            return found
        full = matryoshka.cut(vectors, self._state(None).width)
        return [self._rescored(vector, hits)[:k] for vector, hits in zip(full, found, strict=True)]

    def texts(self, ids: Sequence[str], chunks: Sequence[int] | None = None) -> list[str | None]:
        """Texts of documents, or of their chunks, from the payload.

        Args:
            ids: Document ids.
            chunks: A chunk of each; without them the texts are whole.

        Returns:
            A text for each id, ``None`` where the index has no such document.

        Raises:
            SettingsError: The payload does not hold the text.
        """
        columns = self.text_columns
        rows = self.rows(ids, [schema.ID, schema.CHUNK, schema.CHAR_START, schema.CHAR_END, *columns]).to_pylist()
        if chunks is None:
            whole = {row[schema.ID]: joined_text(row, columns) for row in rows}
            return [whole.get(name) for name in ids]
        spans = {(row[schema.ID], row[schema.CHUNK]): span_text(row, columns) for row in rows}
        return [spans.get(key) for key in zip(ids, chunks, strict=True)]

    def column(self, ids: Sequence[str], name: str) -> list[Any]:
        """Values of a payload column.

        Args:
            ids: Document ids.
            name: The column.

        Returns:
            A value for each id, ``None`` where the index has no such document.

        Raises:
            SettingsError: The payload does not have the column.
        """
        payload = self.epoch.description.layout.payload
        if name not in payload:
            raise SettingsError(f"the tables have no column {name!r}; the payload is {', '.join(payload) or 'empty'}")
        rows = self.rows(ids, [schema.ID, name])
        values = dict(zip(rows[schema.ID].to_pylist(), rows[name].to_pylist(), strict=True))
        return [values.get(key) for key in ids]

    def rows(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Rows of some documents, all their chunks, in no particular order, from the narrowest table."""
        state = min(self.epoch.tables, key=lambda table: table.width)
        return tables.lookup(self.uri, state.name, state.version, ids, columns)

    def _rescored(self, vector: np.ndarray, hits: Sequence[Hit]) -> list[Hit]:
        state = self._state(None)
        chosen = [schema.ID, schema.CHUNK, schema.VECTOR]
        rows = tables.lookup(self.uri, state.name, state.version, [hit.id for hit in hits], chosen)
        keys = zip(rows[schema.ID].to_pylist(), rows[schema.CHUNK].to_pylist(), strict=True)
        cosines = dict(zip(keys, (tables.to_matrix(rows[schema.VECTOR]) @ vector).tolist(), strict=True))
        found_now = [cosines[hit.id, hit.chunk] for hit in hits]
        # Of unit vectors the squared distance is 2 - 2 cos.
        scores = [2 * cosine - 2 for cosine in found_now] if self._metric == "l2" else found_now
        rescored = (replace(hit, score=score, vector_score=score) for hit, score in zip(hits, scores, strict=True))
        return sorted(rescored, key=lambda hit: -hit.score)

    def _nearest(self, query: Any, state: TableState, k: int, where: str | None) -> list[Hit]:
        query = query.distance_type(self._metric).limit(k)
        if state.probes is None:
            query = query.bypass_vector_index()
        else:
            query = vector_index.with_probes(query, state.index, state.probes)
        try:
            rows = (query.where(where) if where else query).to_list()
        except (ValueError, RuntimeError) as error:
            raise SettingsError(f"the search was refused: {first_line(error)}") from None
        return [make_hit(row, self._metric) for row in rows]

    @property
    def _metric(self) -> str:
        return self.epoch.description.layout.metric

    def _state(self, width: int | None) -> Any:
        by_width = {state.width: state for state in self.epoch.tables}
        wanted = max(by_width) if width is None else width
        if wanted not in by_width:
            raise SettingsError(f"no table of width {wanted}; there are {', '.join(map(str, sorted(by_width)))}")
        return by_width[wanted]

    @cached_property
    def _engine(self) -> Any:
        return self.model.engine()

    @cached_property
    def _scorer(self) -> Any:
        return self._reranker.engine() if self._reranker else None


def open_published(
    uri: str,
    name: str,
    *,
    epoch: int | None = None,
    engine: Mapping[str, Any] | None = None,
    reranker: RerankerSettings | None = None,
) -> Published:
    """Opens a published epoch of an index.

    Args:
        uri: LanceDB database.
        name: Name of the index.
        epoch: Its number; the latest by default.
        engine: vLLM engine arguments for the engines, which start when they are first needed.
        reranker: Model for :meth:`Published.score` and for reranking.

    Returns:
        The tables of that epoch, at their versions.

    Raises:
        SettingsError: Nothing is published under that name, or the reranker cannot be had.
    """
    store = ControlStore(uri, name)
    found = store.latest_epoch() if epoch is None else store.epoch(epoch)
    if found is None:
        raise SettingsError(f"no epoch of index {name!r} is published at {uri}; run jobs.index first")
    arguments = dict(engine or {})
    if reranker and MEMORY in arguments:  # two engines, in this process and on one GPU
        arguments[MEMORY] = float(arguments[MEMORY]) / 2
    settings = EngineSettings(**arguments)
    return Published(uri, found, settings, open_reranker(reranker, settings) if reranker else None)
