"""An answer to a question as JSON: numbers as numbers, times in ISO 8601, and the text that answers."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from functools import singledispatch
from typing import Any

from indexer.search.hits import SPAN, Hit


@dataclass(frozen=True)
class Answer:
    """The hits of one question, and how they were found.

    Attributes:
        question: The question.
        epoch: Number of the epoch that answered.
        width: Width that was searched.
        model: The model that embedded the question, as the epoch names it.
        mode: Way of searching.
        milliseconds: Time of embedding and searching; the start of an engine is not in it.
        hits: The hits, best first.
    """

    question: str
    epoch: int
    width: int
    model: str
    mode: str
    milliseconds: float
    hits: Sequence[Hit]


def to_json(answer: Answer, text_columns: Sequence[str], *, whole: bool = False) -> dict[str, Any]:
    """An answer, JSON-ready.

    Args:
        answer: The answer.
        text_columns: Payload columns that hold the documents' text.
        whole: Whether the payload of a hit has the whole document too, not only the text of its chunk.

    Returns:
        The fields of :class:`Answer`, the hits under ``results``.
    """
    return {
        "question": answer.question,
        "epoch": answer.epoch,
        "width": answer.width,
        "model": answer.model,
        "mode": answer.mode,
        "milliseconds": round(answer.milliseconds, 1),
        "results": [_hit(hit, text_columns, whole=whole) for hit in answer.hits],
    }


def _hit(hit: Hit, text_columns: Sequence[str], *, whole: bool) -> dict[str, Any]:
    """One hit; ``text`` is null where the payload does not hold the text."""
    hidden = {*SPAN} if whole else {*SPAN, *text_columns}
    has_text = set(text_columns) <= hit.payload.keys()
    return {
        "id": hit.id,
        "chunk": hit.chunk,
        "span": [hit.payload.get(name) for name in SPAN],
        "score": plain(hit.score),
        "vector_score": plain(hit.vector_score),
        "text_score": plain(hit.text_score),
        "vector_rank": hit.vector_rank,
        "text_rank": hit.text_rank,
        "text": hit.text(text_columns) if has_text else None,
        "payload": {name: plain(value) for name, value in hit.payload.items() if name not in hidden},
    }


@singledispatch
def plain(value: Any) -> Any:
    """A payload value as JSON has it.

    Times are in ISO 8601, durations in seconds, bytes in base64. A decimal is a number; what JSON has no number for is
    null.
    """
    return value


@plain.register
def _(value: float) -> float | None:
    return value if math.isfinite(value) else None


@plain.register
def _(value: Decimal) -> int | float | None:
    """A whole number exactly, otherwise the nearest double."""
    if not value.is_finite():
        return None
    return int(value) if value.as_tuple().exponent == 0 else float(value)


@plain.register(date)
@plain.register(time)
def _(value: date | time) -> str:
    return value.isoformat()


@plain.register
def _(value: timedelta) -> float:
    return value.total_seconds()


@plain.register
def _(value: bytes) -> str:
    return base64.b64encode(value).decode()


@plain.register(dict)
def _(value: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): plain(part) for key, part in value.items()}


@plain.register(list)
def _(value: list[Any]) -> list[Any]:
    return [plain(part) for part in value]
