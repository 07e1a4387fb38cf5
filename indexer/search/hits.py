"""Hits: the results of a search, and their texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from indexer import schema

KEY = (schema.ID, schema.CHUNK)

SPAN = (schema.CHAR_START, schema.CHAR_END)

HIDDEN = frozenset({schema.VECTOR, schema.CONTENT_HASH, schema.PAYLOAD_HASH, schema.CHUNK_HASH})
"""Columns left out of a result."""

DISTANCE = "_distance"
"""Column that LanceDB adds to results."""


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        id: Document id.
        chunk: Chunk of the document.
        score: Hits are sorted by it: the reranker's probability, else the fused score of a hybrid search, else
            ``vector_score`` or ``text_score``.
        vector_score: Similarity to the query, larger is nearer: 1 - distance for cosine and dot, -distance for l2.
            ``None`` where words alone were searched.
        payload: Payload columns and the chunk's character span.
        skip_empty: Whether an empty text column adds nothing to the index's texts instead of a newline.
        vector_rank: Rank of its document by vectors in a hybrid search, from 1; ``None`` where words alone found it.
        text_rank: Rank of its document by words in a text or hybrid search; ``None`` where vectors alone found it.
        text_score: BM25 of its document.
    """

    id: str
    chunk: int
    score: float
    vector_score: float | None
    payload: dict[str, Any]
    skip_empty: bool = True
    vector_rank: int | None = None
    text_rank: int | None = None
    text_score: float | None = None

    def text(self, columns: Sequence[str]) -> str:
        """Text of the chunk, from the payload columns that hold the document's."""
        return span_text(self.payload, columns, skip_empty=self.skip_empty)


def shown_columns(names: Sequence[str]) -> list[str]:
    """Columns that a result shows beside its key."""
    return [name for name in names if name not in HIDDEN | {schema.ID, schema.CHUNK}]


def make_hit(row: dict[str, Any], metric: str, *, skip_empty: bool) -> Hit:
    """Makes a hit of one result row of LanceDB."""
    distance = float(row.pop(DISTANCE))
    score = -distance if metric == "l2" else 1.0 - distance
    return Hit(str(row.pop(schema.ID)), int(row.pop(schema.CHUNK)), score, score, row, skip_empty)


def similarity(cosine: float, metric: str) -> float:
    """Score of a hit by a cosine of unit vectors, whose squared distance is 2 - 2 cos."""
    return 2 * cosine - 2 if metric == "l2" else cosine


def best_chunks(find: Callable[[int], list[Hit]], k: int) -> list[Hit]:
    """The best chunk of each of the ``k`` best documents.

    Args:
        find: Gives the best chunks, best first, as many as it is asked for if there are so many.
        k: Documents.

    Returns:
        Fewer than ``k`` hits only where no further document matches.
    """
    count = k
    while True:
        found = find(count)
        best: dict[str, Hit] = {}
        for hit in found:
            best.setdefault(hit.id, hit)
        if len(best) >= k or len(found) < count:
            return list(best.values())[:k]
        count *= 4


def joined_text(row: Mapping[str, Any], columns: Sequence[str], *, skip_empty: bool) -> str:
    """The text as the corpus reader joined it."""
    texts = (row.get(name) for name in columns)
    return "\n".join(str(text) for text in texts if text or (text is not None and not skip_empty))


def span_text(row: Mapping[str, Any], columns: Sequence[str], *, skip_empty: bool) -> str:
    """Text of one chunk."""
    return joined_text(row, columns, skip_empty=skip_empty)[row[schema.CHAR_START] : row[schema.CHAR_END]]
