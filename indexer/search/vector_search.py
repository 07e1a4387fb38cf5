"""Search of an epoch by vectors: in threads, or in one pass for many vectors and a table without a vector index."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer import schema
from indexer.errors import SettingsError, first_line
from indexer.search import query_vectors
from indexer.search.epoch_rows import EpochRows
from indexer.search.hits import DISTANCE, KEY, Hit, best_chunks, make_hit, shown_columns, similarity
from indexer.search.threads import in_threads
from indexer.storage import exact_search, lookups, tables, vector_index
from indexer.storage.filters import Condition
from indexer.storage.records import Epoch, TableState
from indexer.storage.vector_columns import QueryVectors, similarities

if TYPE_CHECKING:
    from indexer.storage.tables import Table

PAYLOADS = 64
"""Queries whose hits' payload is read together."""

MANY = 16
"""Vectors from which on one pass over a table without an index is faster than a search for each."""


@dataclass(frozen=True)
class NearestOptions:
    """How the nearest chunks are found; as in :meth:`indexer.search.snapshot.Snapshot.nearest`."""

    k: int
    where: Condition | None = None
    oversample: int = 1
    columns: Sequence[str] | None = None
    per_document: bool = False


class VectorSearch:
    """Search of one epoch by vectors, for any number of threads."""

    def __init__(self, uri: str, epoch: Epoch, rows: EpochRows) -> None:
        """Wraps an epoch; tables are opened when they are first searched.

        Args:
            uri: LanceDB database.
            epoch: The epoch.
            rows: Gives the hits' payload.
        """
        self._uri, self._epoch, self._rows = uri, epoch, rows
        self._widest = max(epoch.tables, key=lambda table: table.width)
        self._tables: dict[str, Table] = {}
        self._opening = threading.Lock()

    def stream(self, vectors: QueryVectors, state: TableState, options: NearestOptions) -> Iterator[list[Hit]]:
        """Hits of each vector in a table, searched in a few threads; results wait for no later vector.

        Args:
            vectors: Full-width query vectors.
            state: The table.
            options: How to search.

        Returns:
            For each vector its hits, best first.

        Raises:
            SettingsError: The condition is not valid.
        """
        names = self._rows.schema(state).names
        shown = shown_columns(names) if options.columns is None else list(options.columns)
        # Without chunks every row is a document of its own.
        one_each = options.per_document and self._epoch.description.model.has_chunks
        # Token vectors have one width, and were searched exactly: ranking again would change nothing.
        oversample = 1 if self._per_token else options.oversample
        ready = replace(options, columns=shown, per_document=one_each, oversample=oversample)
        narrow = query_vectors.cut(vectors, state.width)
        many = 1 if self._per_token else MANY
        if state.probes is None and ready.oversample == 1 and not ready.per_document and len(vectors) >= many:
            return self._in_one_pass(narrow, state, ready)
        full = query_vectors.cut(vectors, self._widest.width)
        return in_threads(partial(self._answer, state, ready), narrow, full)

    def _answer(self, state: TableState, options: NearestOptions, narrow: np.ndarray, full: np.ndarray) -> list[Hit]:
        """Hits of one vector."""
        find = partial(self._found, state, options, narrow, full)
        hits = best_chunks(find, options.k) if options.per_document else find(options.k)
        return self._rows.with_payload(state, [hits], options.columns or ())[0]

    def _found(
        self, state: TableState, options: NearestOptions, narrow: np.ndarray, full: np.ndarray, count: int
    ) -> list[Hit]:
        """The best chunks for one vector, or for one query's vectors."""
        if self._per_token:
            return next(self._exact([narrow], state, replace(options, k=count)))
        query = vector_index.vector_query(self._opened(state), narrow, self._metric, state.index, state.probes)
        most = count * options.oversample
        query = query.select([*KEY, *self._stored(state, options), DISTANCE]).limit(most)
        try:
            rows = (query.where(options.where) if options.where else query).to_list()
            # Rows that meet a condition may be in partitions far from the query. Lance looks into all of them then; to
            # allow that at once would make it look into most of them for every query.
            if options.where and state.probes is not None and len(rows) < most:
                rows = query.maximum_nprobes(0).to_list()
        except (ValueError, RuntimeError) as error:
            raise SettingsError(f"the search was refused: {first_line(error)}") from None
        hits = [self._hit(row) for row in rows]
        return hits if options.oversample == 1 else self._rescored(full, hits)[:count]

    def _in_one_pass(self, vectors: QueryVectors, state: TableState, options: NearestOptions) -> Iterator[list[Hit]]:
        """Hits of many vectors in a table without an index."""
        found = self._exact(vectors, state, options)
        while part := list(islice(found, PAYLOADS)):
            yield from self._rows.with_payload(state, part, options.columns or ())

    def _exact(self, vectors: QueryVectors, state: TableState, options: NearestOptions) -> Iterator[list[Hit]]:
        """The same without columns that the table has not."""
        place = (self._uri, state.name, state.version)
        found = exact_search.nearest(*place, vectors, options.k, self._metric, options.where)
        stored = self._stored(state, options)
        while part := list(islice(found, PAYLOADS)):
            payload: dict[tuple[str, int], dict[str, Any]] = {}
            if stored:
                ids = sorted({name for one in part for name in one.ids})
                rows = lookups.lookup(*place, ids, [*KEY, *stored]).to_pylist()
                payload = {(row.pop(schema.ID), row.pop(schema.CHUNK)): row for row in rows}
            for one in part:
                keyed = zip(one.ids, one.chunks, one.distances.tolist(), strict=True)
                yield [
                    self._hit({schema.ID: name, schema.CHUNK: chunk, DISTANCE: far} | payload.get((name, chunk), {}))
                    for name, chunk, far in keyed
                ]

    def _stored(self, state: TableState, options: NearestOptions) -> list[str]:
        """Columns of hits that the searched table has."""
        beside = self._rows.beside(state, options.columns or ())
        return [name for name in options.columns or () if name not in beside]

    def _rescored(self, vector: np.ndarray, hits: Sequence[Hit]) -> list[Hit]:
        """Re-ranks hits by their vectors in the widest table."""
        state = self._widest
        chosen = [*KEY, schema.VECTOR]
        rows = lookups.lookup(self._uri, state.name, state.version, [hit.id for hit in hits], chosen)
        keys = zip(rows[schema.ID].to_pylist(), rows[schema.CHUNK].to_pylist(), strict=True)
        cosines = dict(zip(keys, similarities(rows[schema.VECTOR], vector).tolist(), strict=True))
        scores = [similarity(cosines[hit.id, hit.chunk], self._metric) for hit in hits]
        rescored = (replace(hit, score=score, vector_score=score) for hit, score in zip(hits, scores, strict=True))
        return sorted(rescored, key=lambda hit: -hit.score)

    def _hit(self, row: dict[str, Any]) -> Hit:
        """A hit of a result row."""
        return make_hit(row, self._metric, skip_empty=self._epoch.description.skip_empty)

    def _opened(self, state: TableState) -> "Table":
        """A table, opened once: opening takes longer than most searches."""
        with self._opening:
            if state.name not in self._tables:
                self._tables[state.name] = tables.search_table(self._uri, state.name, state.version)
            return self._tables[state.name]

    @property
    def _per_token(self) -> bool:
        """Whether rows have a vector of every token: LanceDB's search of these is not used, since ours is exact."""
        return self._epoch.description.layout.per_token

    @property
    def _metric(self) -> str:
        """Distance that the vectors are compared by."""
        return self._epoch.description.layout.metric
