"""Ways to search an epoch: by vectors, by words (BM25), or by both, fused by reciprocal rank.

Full-text search ranks documents. So both rankings of a hybrid search are of documents, and each document is one hit,
its best chunk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from indexer import schema
from indexer.search import query_vectors
from indexer.search.conditions import Wanted
from indexer.search.fusion import fuse
from indexer.search.hits import KEY, SPAN, Hit, similarity
from indexer.search.likeness import likeness, words_of
from indexer.search.snapshot import Snapshot
from indexer.search.threads import in_threads
from indexer.search.vector_search import NearestOptions
from indexer.search.words import text_state
from indexer.search_settings import Mode
from indexer.storage import lookups
from indexer.storage.records import TableState
from indexer.storage.vector_columns import QueryVectors, similarities

FUSED = 100
"""Least documents of either ranking that are fused, so that the first ones do not depend on how many are asked for."""


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


def check(snapshot: Snapshot, options: SearchOptions) -> Wanted:
    """Refuses options that the epoch cannot serve, before an engine starts.

    Returns:
        The conditions that rows must meet before they are searched.

    Raises:
        SettingsError: There is no such width, no full-text index, or a filter does not fit its column.
    """
    wanted = snapshot.wanted(options.width, options.where, options.filters)
    if options.mode != "vector":
        text_state(snapshot.epoch)
    return wanted


def find(
    snapshot: Snapshot,
    queries: Sequence[str],
    vectors: QueryVectors | None,
    k: int,
    options: SearchOptions,
    *,
    per_document: bool = True,
) -> Iterator[list[Hit]]:
    """Hits of each query, searched in a few threads.

    Args:
        snapshot: The epoch.
        queries: The queries' texts.
        vectors: Their vectors; not needed to search by words alone.
        k: Hits per query.
        options: How to search.
        per_document: Whether only the best chunk of a document is a hit. By words it always is.

    Yields:
        For each query its hits, best first.

    Raises:
        SettingsError: The epoch cannot serve the options.
    """
    wanted = check(snapshot, options)
    if options.mode == "text":
        words = snapshot.words  # opened once, before the threads
        yield from in_threads(
            lambda query: _at_words(snapshot, words.documents(query, k, wanted.words, options.columns), query), queries
        )
        return
    if vectors is None:
        raise TypeError("a search by vectors needs the queries' vectors")
    depth, one_each = (k, per_document) if options.mode == "vector" else (max(k, FUSED), True)
    nearest = NearestOptions(depth, wanted.vectors, options.oversample, options.columns, one_each)
    near = snapshot.vectors.stream(vectors, snapshot.state(options.width), nearest)
    if options.mode == "vector":
        yield from near
        return
    words = snapshot.words
    by_words = in_threads(lambda query: words.documents(query, depth, wanted.words, options.columns), queries)
    for vector, hits, worded in zip(vectors, near, by_words, strict=True):
        yield _fused(snapshot, vector, hits, worded, k, options)


def _fused(
    snapshot: Snapshot,
    vector: np.ndarray,
    nearest: Sequence[Hit],
    by_words: Sequence[Hit],
    k: int,
    options: SearchOptions,
) -> list[Hit]:
    """The best documents of both rankings, fused."""
    hits = {hit.id: hit for hit in nearest}
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
    """Each document at the chunk that has most of the query's words; the first one where the hits have no text."""
    described = snapshot.epoch.description
    texts = described.text_columns
    if not (described.model.has_chunks and hits and {*texts, *SPAN} <= hits[0].payload.keys()):
        return list(hits)
    wanted = list(dict.fromkeys(words_of(query)))
    spans: dict[str, list[dict[str, Any]]] = {}
    for row in snapshot.rows([hit.id for hit in hits], [*KEY, *SPAN]).to_pylist():
        spans.setdefault(row.pop(schema.ID), []).append(row)
    return [_with_most_words(hit, spans[hit.id], wanted, texts) for hit in hits]


def _with_most_words(hit: Hit, spans: list[dict[str, Any]], wanted: Sequence[str], texts: Sequence[str]) -> Hit:
    """The hit at the chunk with most of the wanted words."""
    chunks = [_at_chunk(hit, span) for span in sorted(spans, key=lambda span: int(span[schema.CHUNK]))]
    return max(chunks, key=lambda chunk: likeness(wanted, chunk.text(texts)))


def _nearest_chunks(snapshot: Snapshot, state: TableState, vector: np.ndarray, hits: Sequence[Hit]) -> dict[str, Hit]:
    """Each document at its chunk that is nearest to a vector, with that chunk's similarity."""
    if not hits:
        return {}
    (narrow,) = query_vectors.cut(vector[None] if vector.ndim == 1 else [vector], state.width)
    columns = [*KEY, *SPAN, schema.VECTOR]
    rows = lookups.lookup(snapshot.uri, state.name, state.version, [hit.id for hit in hits], columns)
    cosines = similarities(rows[schema.VECTOR], narrow).tolist()
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for row, cosine in zip(rows.select([*KEY, *SPAN]).to_pylist(), cosines, strict=True):
        name = row.pop(schema.ID)
        if name not in best or cosine > best[name][0]:
            best[name] = cosine, row
    found = {}
    for hit in hits:
        cosine, row = best[hit.id]
        score = similarity(cosine, snapshot.epoch.description.layout.metric)
        found[hit.id] = replace(_at_chunk(hit, row), vector_score=score)
    return found


def _at_chunk(hit: Hit, row: Mapping[str, Any]) -> Hit:
    """The hit at another chunk of its document."""
    span = {name: row[name] for name in SPAN if name in hit.payload}
    return replace(hit, chunk=int(row[schema.CHUNK]), payload=hit.payload | span)
