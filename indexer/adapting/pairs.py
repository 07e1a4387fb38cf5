"""Pairs of a query and a document: what is trained on, validated on and judged by, and the files that keep them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import pyarrow as pa

Split = Literal["train", "validation", "test"]

SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("document_id", pa.string()),
        ("document", pa.string()),
        ("grade", pa.int32()),
        ("source", pa.string()),
        ("drawn", pa.string()),
        ("split", pa.string()),
        ("dropped", pa.string()),
        ("rank", pa.int32()),
        ("cosine", pa.float32()),
        ("score", pa.float32()),
        ("negative_ids", pa.list_(pa.string())),
        ("negatives", pa.list_(pa.string())),
    ]
)
"""Columns of ``pairs.parquet``."""


@dataclass(frozen=True)
class Pair:
    """A query and a document.

    Attributes:
        query_id: Id of the query.
        query: The query.
        document_id: Id of the document.
        document: Its text as it is trained on, without what the query was taken from.
        source: ``judgements``, ``titles`` or ``synthetic``.
        grade: Above 0 the document answers the query, otherwise it is a negative that somebody judged.
        drawn: Values of the generator's prompt by name.
        split: What the pair is for.
        dropped: Why it is not trained on; empty if it is.
        rank: Rank of the document among the published ones, from 1; ``None`` if it was not searched for.
        cosine: Of query and document.
        score: The reranker's, where there is one.
        negatives: Texts of documents that do not answer the query, by id.
    """

    query_id: str
    query: str
    document_id: str
    document: str
    source: str
    grade: int = 1
    drawn: dict[str, str] = field(default_factory=dict)
    split: Split = "train"
    dropped: str = ""
    rank: int | None = None
    cosine: float | None = None
    score: float | None = None
    negatives: dict[str, str] = field(default_factory=dict)

    @property
    def is_trained_on(self) -> bool:
        """Whether the query and the document are to be near each other after training."""
        return self.split == "train" and not self.dropped and self.grade > 0


def trained(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs that are trained on, in their order."""
    return [pair for pair in pairs if pair.is_trained_on]


def key(text: str) -> str:
    """Digest of a text that ignores case and white space: texts with one key count as the same."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).hexdigest()


def names(document_id: str, text: str) -> frozenset[str]:
    """What a document is known by: its id, and the key of its text if it has one."""
    return frozenset([document_id, key(text)] if text.strip() else [document_id])


def answers(pairs: Iterable[Pair]) -> dict[str, frozenset[str]]:
    """What the documents that answer each query are known by, by the query's key."""
    found: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.grade > 0:
            found.setdefault(key(pair.query), set()).update(names(pair.document_id, pair.document))
    return {query: frozenset(known) for query, known in found.items()}


def to_table(pairs: Sequence[Pair]) -> pa.Table:
    """The pairs as a table of :data:`SCHEMA`."""
    rows = [
        {name: getattr(pair, name) for name in SCHEMA.names if hasattr(pair, name)}
        | {
            "drawn": json.dumps(pair.drawn, ensure_ascii=False, sort_keys=True),
            "negative_ids": list(pair.negatives),
            "negatives": list(pair.negatives.values()),
        }
        for pair in pairs
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def from_table(table: pa.Table) -> list[Pair]:
    """The inverse of :func:`to_table`."""
    return [_pair(row) for row in table.to_pylist()]


def _pair(row: dict[str, Any]) -> Pair:
    negatives = dict(zip(row.pop("negative_ids"), row.pop("negatives"), strict=True))
    return Pair(**row | {"drawn": json.loads(row["drawn"]), "negatives": negatives})


def sentence_transformers_lines(pairs: Sequence[Pair]) -> str:
    """JSON lines of the trained pairs with ``anchor``, ``positive`` and ``negative_1`` ..., as its losses take them.

    Every row has as many negatives, since a missing one would be a null that no loss takes. Documents of other pairs,
    which are negatives in a batch anyway, fill up.
    """
    kept, known = trained(pairs), answers(pairs)
    most = max((len(pair.negatives) for pair in kept), default=0)
    rows = []
    for at, pair in enumerate(kept):
        others = (one.document for one in (*kept[at + 1 :], *kept[:at]) if _is_other(pair, one, known[key(pair.query)]))
        negatives = [*pair.negatives.values(), *islice(others, most - len(pair.negatives))]
        numbered = {f"negative_{number}": text for number, text in enumerate(negatives, 1)}
        rows.append({"anchor": pair.query, "positive": pair.document} | numbered)
    return _lines(row for row in rows if len(row) == most + 2)  # fewer where hardly any other document is left


def _is_other(pair: Pair, other: Pair, answering: frozenset[str]) -> bool:
    """Whether another pair's document neither answers a pair's query nor is one of its negatives."""
    known = names(other.document_id, other.document)
    return other.document_id not in pair.negatives and known.isdisjoint(answering)


def swift_lines(pairs: Iterable[Pair]) -> str:
    """JSON lines of the trained pairs as ms-swift takes them for embedding models with InfoNCE."""
    rows = (
        {
            "messages": _turn(pair.query),
            "positive_messages": [_turn(pair.document)],
            "negative_messages": [_turn(text) for text in pair.negatives.values()],
        }
        for pair in trained(pairs)
    )
    return _lines(rows)


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
