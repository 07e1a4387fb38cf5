"""Ways to search an epoch: by vectors, by words (BM25), or by both, fused by reciprocal rank.

Full-text search ranks documents, since the searched columns are those of the document and every chunk repeats them.
So both rankings of a hybrid search are of documents, and each document is one hit, its best chunk.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from indexer import schema
from indexer.errors import SettingsError
from indexer.inference import matryoshka
from indexer.search.fusion import fuse
from indexer.search.hits import Hit, shown_columns
from indexer.search.snapshot import Snapshot
from indexer.search_settings import Mode
from indexer.storage import filters, tables, text_index, where
from indexer.storage.records import TableState

FUSED = 100
"""Least documents of either ranking that are fused, so that the first ones do not depend on how many are asked for."""

KEY = [schema.ID, schema.CHUNK]

SPAN = [schema.CHAR_START, schema.CHAR_END]

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class SearchOptions:
    """How questions are answered.

    Attributes:
        mode: ``vector``, ``text`` or ``hybrid``.
        width: Width to search at, the widest by default.
        where: SQL condition on columns of the table.
        filters: Values that columns must have, as in :func:`indexer.storage.filters.matches`.
        oversample: Above 1, this many times the hits are found by vector and ranked again at the full width.
        weights: Of the vectors' and the words' ranking in a hybrid search.
        columns: Payload columns and span of the hits, all by default.
    """

    mode: Mode = "vector"
    width: int | None = None
    where: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    oversample: int = 1
    weights: tuple[float, float] = (1.0, 1.0)
    columns: Sequence[str] | None = None

    @property
    def needs_vectors(self) -> bool:
        """Whether queries must be embedded."""
        return self.mode != "text"


def check(snapshot: Snapshot, options: SearchOptions) -> None:
    """Refuses options that the epoch cannot serve, before an engine starts.

    Raises:
        SettingsError: There is no such width, no full-text index, or a filter does not fit its column.
    """
    snapshot.state(options.width)
    if options.mode != "vector":
        text_state(snapshot)
    condition(snapshot, options)


def condition(snapshot: Snapshot, options: SearchOptions) -> str | None:
    """The condition that rows must meet before they are searched, from ``where`` and ``filters``."""
    if options.where is None and not options.filters:
        return None
    table = snapshot.schema(options.width)
    matching = filters.matches(options.filters, table) if options.filters else None
    return filters.all_of(None if options.where is None else where.condition(options.where, table), matching)


def text_state(snapshot: Snapshot) -> TableState:
    """The table with the epoch's full-text index.

    Raises:
        SettingsError: There is none.
    """
    for state in snapshot.epoch.tables:
        if state.text:
            return state
    raise SettingsError(
        f"epoch {snapshot.epoch.number} has no full-text index: set index.text_search to payload columns and run "
        "jobs.index, which embeds nothing for it; or search with mode vector"
    )


def find(
    snapshot: Snapshot, queries: Sequence[str], vectors: np.ndarray | None, k: int, options: SearchOptions
) -> Iterator[list[Hit]]:
    """Hits of each query.

    Args:
        snapshot: The epoch.
        queries: The queries' texts.
        vectors: Their vectors, float32, shape (n, dimension); not needed to search by words alone.
        k: Hits per query.
        options: How to search.

    Yields:
        For each query its hits, best first. By vectors they are chunks, otherwise documents.

    Raises:
        SettingsError: The epoch cannot serve the options.
    """
    check(snapshot, options)
    wanted = condition(snapshot, options)
    if options.mode == "text":
        words = _Words(snapshot, wanted, options.columns)
        yield from (_at_words(snapshot, words.documents(query, k), query) for query in queries)
        return
    if vectors is None:
        raise TypeError("a search by vectors needs the queries' vectors")
    depth = k if options.mode == "vector" else max(k, FUSED)
    found = snapshot.nearest(vectors, depth, options.width, wanted, options.oversample, options.columns)
    if options.mode == "vector":
        yield from found
        return
    words = _Words(snapshot, wanted, options.columns)
    for query, vector, hits in zip(queries, vectors, found, strict=True):
        yield _fused(snapshot, vector, hits, words.documents(query, depth), k, options)


class _Words:
    """Full-text search of an epoch."""

    def __init__(self, snapshot: Snapshot, wanted: str | None, columns: Sequence[str] | None) -> None:
        """Finds the table that has the index."""
        self._snapshot = snapshot
        self._state = text_state(snapshot)
        self._where = filters.all_of(wanted, filters.first_chunk()) if _has_chunks(snapshot) else wanted
        names = snapshot.schema(self._state.width).names
        self._shown = [*KEY, *(shown_columns(names) if columns is None else columns)]

    def documents(self, query: str, k: int) -> list[Hit]:
        """Documents that share words with a query, best first, as their first chunks."""
        state = self._state
        rows = text_index.search(
            self._snapshot.uri, state.name, state.version, query, state.text, k, self._where, self._shown
        )
        skip = self._snapshot.epoch.description.skip_empty
        hits = []
        for rank, row in enumerate(rows, 1):
            name, chunk, score = str(row.pop(schema.ID)), int(row.pop(schema.CHUNK)), float(row.pop(text_index.SCORE))
            hits.append(Hit(name, chunk, score, None, row, skip, text_rank=rank, text_score=score))
        return hits


def _fused(
    snapshot: Snapshot,
    vector: np.ndarray,
    nearest: Sequence[Hit],
    by_words: Sequence[Hit],
    k: int,
    options: SearchOptions,
) -> list[Hit]:
    """The best documents of both rankings, fused."""
    hits: dict[str, Hit] = {}
    for hit in nearest:
        hits.setdefault(hit.id, hit)
    with_words = {hit.id: hit for hit in by_words}
    best = fuse([list(hits), list(with_words)], options.weights)[:k]
    # What words alone found gets its nearest chunk and that one's similarity.
    state = snapshot.state(options.width if options.oversample == 1 else None)
    missing = [with_words[item.name] for item in best if item.name not in hits]
    hits |= _nearest_chunks(snapshot, state, vector, missing)
    return [
        replace(
            hits[item.name],
            score=item.score,
            vector_rank=item.ranks[0],
            text_rank=item.ranks[1],
            text_score=with_words[item.name].text_score if item.name in with_words else None,
        )
        for item in best
    ]


def _at_words(snapshot: Snapshot, hits: Sequence[Hit], query: str) -> list[Hit]:
    """Each document at the chunk that has most of the query's words."""
    if not (_has_chunks(snapshot) and hits):
        return list(hits)
    wanted = set(WORD.findall(query.casefold()))
    texts = snapshot.epoch.description.text_columns
    spans: dict[str, list[dict[str, Any]]] = {}
    for row in snapshot.rows([hit.id for hit in hits], [*KEY, *SPAN]).to_pylist():
        spans.setdefault(row.pop(schema.ID), []).append(row)
    return [_with_most_words(hit, spans[hit.id], wanted, texts) for hit in hits]


def _with_most_words(hit: Hit, spans: list[dict[str, Any]], wanted: set[str], texts: Sequence[str]) -> Hit:
    """The hit at the chunk with most of the wanted words; the first one where the payload has not the text."""
    if not {*texts, *SPAN} <= hit.payload.keys():
        return hit
    chunks = [_at_chunk(hit, span) for span in sorted(spans, key=lambda span: int(span[schema.CHUNK]))]
    return max(chunks, key=lambda chunk: len(wanted & set(WORD.findall(chunk.text(texts).casefold()))))


def _nearest_chunks(snapshot: Snapshot, state: TableState, vector: np.ndarray, hits: Sequence[Hit]) -> dict[str, Hit]:
    """Each document at its chunk that is nearest to a vector, with that chunk's similarity."""
    if not hits:
        return {}
    narrow = matryoshka.cut(vector[None], state.width)[0]
    columns = [*KEY, *SPAN, schema.VECTOR]
    rows = tables.lookup(snapshot.uri, state.name, state.version, [hit.id for hit in hits], columns)
    cosines = (tables.to_matrix(rows[schema.VECTOR]) @ narrow).tolist()
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for row, cosine in zip(rows.select([*KEY, *SPAN]).to_pylist(), cosines, strict=True):
        name = row.pop(schema.ID)
        if name not in best or cosine > best[name][0]:
            best[name] = cosine, row
    found = {}
    for hit in hits:
        cosine, row = best[hit.id]
        score = 2 * cosine - 2 if snapshot.epoch.description.layout.metric == "l2" else cosine
        found[hit.id] = replace(_at_chunk(hit, row), vector_score=score)
    return found


def _at_chunk(hit: Hit, row: Mapping[str, Any]) -> Hit:
    """The hit at another chunk of its document."""
    span = {name: row[name] for name in SPAN if name in hit.payload}
    return replace(hit, chunk=int(row[schema.CHUNK]), payload=hit.payload | span)


def _has_chunks(snapshot: Snapshot) -> bool:
    """Whether a document may have several chunks."""
    return snapshot.epoch.description.model.overflow == "chunk"
