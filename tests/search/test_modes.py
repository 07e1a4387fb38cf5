"""Searches by vectors, by words and by both, on real tables with the fake engine's vectors."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import SettingsError
from indexer.search import modes
from indexer.search.hits import Hit
from indexer.search.modes import SearchOptions
from indexer.search.published import open_published
from indexer.search.snapshot import Snapshot
from tests.support import fakes

BEASTS = "aardvark badger caribou dolphin elephant flamingo giraffe hedgehog iguana jellyfish".split()

LONG = 3
"""Documents of several chunks."""


def text(row: int) -> str:
    beast = f"{BEASTS[row % 10]} number{row} walks slowly"
    filler = " ".join(f"sentence {at} of page {row} says little." for at in range(40))
    return f"{filler} At last the {beast}." if row < LONG else f"The {beast}."


@pytest.fixture(scope="module", params=["once", "copies"])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """40 documents, the first ones of several chunks, whose last one alone names the beast."""
    root = tmp_path_factory.mktemp("modes")
    columns = {
        "id": [f"doc-{row:02}" for row in range(40)],
        "text": [text(row) for row in range(40)],
        "kind": ["page"] * 40,
        "day": [date(2024, 1, 1) + timedelta(row) for row in range(40)],
        "price": pa.array([Decimal(row) / 4 for row in range(40)], pa.decimal128(8, 2)),
        "at": pa.array([datetime(2024, 1, 1, row % 24) for row in range(40)], pa.timestamp("us", "Europe/Berlin")),
        "tags": [[f"t{row % 4}", "all"] for row in range(40)],
    }
    (root / "corpus").mkdir()
    pq.write_table(pa.table(columns), root / "corpus" / "a.parquet")
    given = fakes.settings(
        root,
        corpus={"payload": ["kind", "text", "day", "price", "at", "tags"]},
        model={"overflow": "chunk", "max_tokens": 64, "chunk_overlap": 8},
        index={
            "uri": str(root / "index"),
            "widths": fakes.WIDTHS,
            "text_search": ["text"],
            "filters": ["day", "price", "at", "tags"],
            "payload": request.param,
        },
    )
    fakes.run_here(given)
    return open_published(given.index.uri, given.index.name).snapshot


def vectors(snapshot: Snapshot, *names: str) -> np.ndarray:
    """Full vectors of the documents' first chunks, as queries."""
    found = snapshot.read(384, ["id", "chunk", "vector"]).to_pylist()
    stored = {row["id"]: row["vector"] for row in found if row["chunk"] == 0}
    return np.array([stored[name] for name in names], np.float32)


def search(snapshot: Snapshot, query: str, name: str, k: int = 5, **options: Any) -> list[Hit]:
    """One query with the vector of a document."""
    (hits,) = modes.find(snapshot, [query], vectors(snapshot, name), k, SearchOptions(**options))
    return hits


def test_words_find_the_document_at_the_chunk_that_has_them(snapshot: Snapshot) -> None:
    (hits,) = modes.find(snapshot, ["number1 beast"], None, 5, SearchOptions(mode="text"))
    assert [(hit.id, hit.text_rank, hit.vector_score) for hit in hits] == [("doc-01", 1, None)]
    assert hits[0].chunk > 0
    assert "number1" in hits[0].text(["text"])
    assert hits[0].score == hits[0].text_score


def test_both_find_what_one_of_them_misses(snapshot: Snapshot) -> None:
    hits = search(snapshot, "number27", "doc-30", mode="hybrid")
    assert {hit.id for hit in hits[:2]} == {"doc-27", "doc-30"}
    by_name = {hit.id: hit for hit in hits}
    assert by_name["doc-27"].text_rank == by_name["doc-30"].vector_rank == 1
    assert by_name["doc-30"].text_rank is None
    assert by_name["doc-30"].vector_score == pytest.approx(1.0, abs=1e-5)
    assert len({hit.id for hit in hits}) == len(hits) == 5


def test_what_words_alone_found_has_its_nearest_chunk_and_similarity(snapshot: Snapshot) -> None:
    """Filtered to three documents of many chunks: the nearest hundred chunks of all others are not asked for."""
    query = vectors(snapshot, "doc-30")
    rows = [row for row in snapshot.read(384, ["id", "chunk", "vector"]).to_pylist() if row["id"] == "doc-02"]
    cosines = {row["chunk"]: float(np.array(row["vector"]) @ query[0]) for row in rows}
    found = modes._nearest_chunks(snapshot, snapshot.state(), query[0], [Hit("doc-02", 0, 0, None, {"char_start": 0})])
    assert found["doc-02"].chunk == max(cosines, key=lambda chunk: cosines[chunk])
    assert found["doc-02"].vector_score == pytest.approx(max(cosines.values()), abs=1e-5)


def test_the_first_results_do_not_depend_on_how_many_are_asked_for(snapshot: Snapshot) -> None:
    few, many = (search(snapshot, "slowly number3 page", "doc-09", k, mode="hybrid") for k in (5, 30))
    assert [hit.id for hit in few] == [hit.id for hit in many[:5]]


def test_width_rescoring_filter_and_weights_compose(snapshot: Snapshot) -> None:
    options: dict[str, Any] = {"mode": "hybrid", "width": 96, "oversample": 3, "where": "id != 'doc-27'"}
    hits = search(snapshot, "number27", "doc-30", **options)
    assert hits[0].id == "doc-30"
    assert "doc-27" not in {hit.id for hit in hits}
    full = {hit.id: hit.vector_score for hit in search(snapshot, "x", "doc-30", 40)}
    assert [hit.vector_score for hit in hits] == pytest.approx([full[hit.id] for hit in hits], abs=1e-5)
    only_words = search(snapshot, "number27", "doc-30", mode="hybrid", weights=(0.0, 1.0), filters={"id": ["doc-27"]})
    assert [hit.id for hit in only_words] == ["doc-27"]


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"filters": {"day": [date(2024, 1, 11), "2024-01-13"]}}, {10, 12}),
        ({"filters": {"day": ("2024-02-08", None)}}, {38, 39}),
        ({"filters": {"price": (2.5, Decimal("3.00")), "tags": "t3"}}, {11}),
        ({"filters": {"price": 5}, "where": "day >= '2024-01-02' AND price < 5.5"}, {20}),
        ({"where": "day BETWEEN date '2024-01-11' AND '2024-01-12'"}, {10, 11}),
        ({"filters": {"at": datetime(2024, 1, 1, 3, tzinfo=UTC)}, "where": "tags IS NOT NULL"}, {3, 27}),
        ({"filters": {"tags": ["t1", "t2"], "day": ("2024-01-06", "2024-01-07")}}, {5, 6}),
        ({"filters": {"kind": "none"}}, set()),
    ],
)
def test_filters_hold_in_every_mode(snapshot: Snapshot, mode: Any, options: Any, ids: set[int]) -> None:
    hits = search(snapshot, "slowly", "doc-30", 40, mode=mode, **options)
    assert {hit.id for hit in hits} == {f"doc-{row:02}" for row in ids}


@pytest.mark.parametrize("mode", ["text", "hybrid"])
@pytest.mark.parametrize(
    "query",
    ["", "   ", '"', "a AND (b OR", "number27^99 -walks +x *:* ?", "'; DROP TABLE x --", "the", "\x00", "😀", "שלום",
     "東京都", "a lone \ud800", "slowly " * 15_000, "x" * 100_000],
    ids=range(14),
)  # fmt: skip
def test_any_text_is_a_question(snapshot: Snapshot, mode: Any, query: str) -> None:
    hits = search(snapshot, query, "doc-30", mode=mode)
    assert len(hits) == (5 if mode == "hybrid" or "slowly" in query else len(hits))
    assert all(hit.text_rank is None or hit.text_score for hit in hits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "kind = 'page'; DROP TABLE x"}, "not one condition"),
        ({"where": "kind = 'page') OR (1 = 1"}, "not one condition"),
        ({"where": "kind = 'page' ORDER BY id"}, "the condition is refused"),
        ({"where": "kind = 'page' -- more"}, "the condition is refused|not one condition"),
        ({"where": ""}, "not one condition"),
        ({"where": "nothing = 1"}, "the condition is refused"),
        ({"filters": {"year": 3}}, r"filters: there is no column 'year'; there are id, chunk"),
        ({"filters": {"kind": 3}}, "the value for column 'kind' does not fit its type string"),
        ({"filters": {"vector": None}}, "there is no column 'vector'"),
        ({"width": 7}, "no table of width 7"),
    ],
)
@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_what_cannot_be_asked_is_refused(snapshot: Snapshot, mode: Any, options: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        search(snapshot, "walks", "doc-30", mode=mode, **options)


def test_an_index_without_words_says_how_to_get_them(tmp_path: Path) -> None:
    fakes.write(tmp_path / "corpus" / "a.parquet", fakes.words(5))
    given = fakes.settings(tmp_path)
    fakes.run_here(given)
    plain = open_published(given.index.uri, given.index.name).snapshot
    with pytest.raises(SettingsError, match=r"epoch 1 has no full-text index: set index\.text_search"):
        modes.check(plain, SearchOptions(mode="hybrid"))


@pytest.mark.parametrize("stored", ["once", "copies"])
def test_an_epoch_of_no_documents_finds_nothing_in_every_mode(tmp_path: Path, stored: str) -> None:
    """Lance builds no index of no rows: the epoch is one with full-text search all the same."""
    fakes.write(tmp_path / "corpus" / "a.parquet", [("empty", "")])
    where = {"uri": str(tmp_path / "index"), "widths": fakes.WIDTHS}
    searched = {"text_search": ["kind"], "filters": ["kind"], "payload": stored}
    given = fakes.settings(tmp_path, index=where | searched, gates={"max_quarantined": 1.0})
    fakes.run_here(given)
    snapshot = open_published(given.index.uri, given.index.name).snapshot
    asked = np.ones((1, 384), np.float32)
    for mode in ("vector", "text", "hybrid"):
        options = SearchOptions(mode=mode, filters={"kind": ["page"]})
        assert list(modes.find(snapshot, ["page"], asked, 5, options)) == [[]]
    fakes.write(tmp_path / "corpus" / "a.parquet", [("empty", ""), ("full", "a word")])
    fakes.run_here(given)
    snapshot = open_published(given.index.uri, given.index.name).snapshot
    (hits,) = modes.find(snapshot, ["page"], None, 5, SearchOptions(mode="text"))
    assert [hit.id for hit in hits] == ["full"]
