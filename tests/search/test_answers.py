"""Answers as JSON: numbers as numbers, times in ISO 8601, the text of the chunk and not the whole document."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from indexer.search.answers import Answer, plain, to_json
from indexer.search.hits import Hit, best_chunks

PAYLOAD = {
    "char_start": 6,
    "char_end": 11,
    "text": "first words of it",
    "price": Decimal("12.50"),
    "count": Decimal(7),
    "at": datetime(2024, 3, 1, 12, tzinfo=UTC),
    "day": date(2024, 3, 1),
    "took": timedelta(seconds=1.5),
    "raw": b"\x00\xff",
    "share": float("nan"),
    "tags": [{"name": "a", "weight": Decimal("0.5")}],
    "nothing": None,
}


def answer(**payload: object) -> Answer:
    hit = Hit("a", 2, 0.5, 0.25, PAYLOAD | payload)
    return Answer("q?", 3, 96, "a/model", "vector", 12.345, [hit])


def test_an_answer_says_how_it_was_found_and_what_answers() -> None:
    found = json.loads(json.dumps(to_json(answer(), ["text"]), allow_nan=False))
    (hit,) = found.pop("results")
    assert found == {
        "question": "q?",
        "epoch": 3,
        "width": 96,
        "model": "a/model",
        "mode": "vector",
        "milliseconds": 12.3,
    }
    assert (hit["id"], hit["chunk"], hit["span"], hit["text"]) == ("a", 2, [6, 11], "words")
    assert hit["payload"] == {
        "price": 12.5,
        "count": 7,
        "at": "2024-03-01T12:00:00+00:00",
        "day": "2024-03-01",
        "took": 1.5,
        "raw": "AP8=",
        "share": None,
        "tags": [{"name": "a", "weight": 0.5}],
        "nothing": None,
    }


def test_the_whole_document_comes_when_it_is_asked_for() -> None:
    (hit,) = to_json(answer(), ["text"], whole=True)["results"]
    assert hit["payload"]["text"] == "first words of it"
    (hit,) = to_json(answer(), ["elsewhere"])["results"]
    assert hit["text"] is None


def test_large_numbers_keep_their_digits() -> None:
    assert plain(Decimal(2**70)) == 2**70
    assert plain(Decimal("NaN")) is None
    assert plain([True, None, "x"]) == [True, None, "x"]


def test_the_best_chunk_stands_for_its_document() -> None:
    ranked = [Hit(name, at, -float(at), -float(at), {}) for at, name in enumerate("aaabaacbadd")]
    asked: list[int] = []

    def find(count: int) -> list[Hit]:
        asked.append(count)
        return ranked[:count]

    assert [(hit.id, hit.chunk) for hit in best_chunks(find, 2)] == [("a", 0), ("b", 3)]
    assert [(hit.id, hit.chunk) for hit in best_chunks(find, 9)] == [("a", 0), ("b", 3), ("c", 6), ("d", 9)]
    assert asked == [2, 8, 9, 36]
