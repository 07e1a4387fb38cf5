"""Full-text and filter indices: kept with every epoch, changed without embedding, refused by name."""

from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from indexer.errors import RefusedError, SettingsError
from indexer.publishing import history
from indexer.search.published import open_published
from indexer.search.words import text_state
from indexer.settings import Settings
from indexer.storage import scalar_indices, tables, text_index
from indexer.storage.control import ControlStore
from indexer.storage.index_spec import IndexSpec
from indexer.storage.records import Epoch
from tests.support import fakes

WORDS = "aardvark badger caribou dolphin elephant flamingo giraffe hedgehog iguana jellyfish kangaroo leopard".split()


def texts(count: int) -> list[tuple[str, str]]:
    return [
        (
            f"doc-{row:03}",
            f"{WORDS[row % 12]} meets {WORDS[row * 5 % 12]} under number{row} beside lantern{row % 7} again",
        )
        for row in range(count)
    ]


def settings(root: Path, **index: Any) -> Settings:
    given = {"uri": str(root / "index"), "widths": fakes.WIDTHS, "payload": "copies", **index}
    return fakes.settings(root, corpus={"payload": ["kind", "text"]}, index=given)


SEARCHED: dict[str, Any] = {"text_search": ["text"], "filters": ["kind"]}


def latest(given: Settings) -> Epoch:
    return open_published(given.index.uri, given.index.name).epoch


def found(given: Settings, query: str, columns: list[str] | None = None) -> list[str]:
    """Ids that full-text search finds in the published epoch."""
    state = text_state(latest(given))
    dataset = tables.open_version(given.index.uri, state.name, state.version)
    rows = text_index.search(dataset, query, columns or state.text, 100, None, ["id", "chunk"])
    return [row["id"] for row in rows]


@pytest.mark.heavy
@pytest.mark.parametrize("payload", ["copies", "once"])
def test_indices_are_made_kept_and_dropped_without_embedding(tmp_path: Path, payload: str) -> None:
    rows = texts(60)
    fakes.write(tmp_path / "corpus" / "a.parquet", rows)
    plain, searched = settings(tmp_path, payload=payload), settings(tmp_path, payload=payload, **SEARCHED)
    assert fakes.run_here(plain)["tokens"] > 0
    added = fakes.run_here(searched)
    assert (added["epoch"], added["tokens"], added["unchanged"]) == (2, 0, 60)
    assert added["gates"]["text_found"] == 1.0
    *others, texted = latest(searched).searched
    assert [table.text for table in others] == [[]] * len(others)
    assert texted.text == ["text"], "the table of documents, else the narrowest alone"
    assert texted.name == ("docs_documents" if payload == "once" else "docs_d96")
    assert all(table.filters == {"kind": "BITMAP"} for table in latest(searched).searched)
    assert all(texted.search_bytes > table.search_bytes > 0 for table in others)
    assert fakes.run_here(searched)["status"] == "unchanged"

    rows[7] = ("doc-007", "zeppelin over an iceberg")
    fakes.write(tmp_path / "corpus" / "a.parquet", rows[:-10])
    assert fakes.run_here(searched)["gates"]["rows_unindexed"] == 0
    assert found(searched, "zeppelin") == ["doc-007"]
    assert found(searched, "number7") == [], "nothing is found under an old text"
    assert found(searched, "number55") == [], "nor a document that is gone"
    assert found(searched, "number49") == ["doc-049"]

    dropped = fakes.run_here(plain)
    assert (dropped["epoch"], dropped["tokens"]) == (4, 0)
    assert all((table.text, table.filters, table.search_bytes) == ([], {}, 0) for table in latest(plain).searched)
    store = ControlStore(plain.index.uri, plain.index.name)
    history.rollback(plain.index.uri, store, 2)
    assert found(searched, "number55") == ["doc-055"], "a rollback brings the indices of its epoch back"


def test_an_epoch_without_them_says_nothing_of_them(tmp_path: Path) -> None:
    """So that an index made before has the intents and epochs that it had."""
    fakes.write(tmp_path / "corpus" / "a.parquet", texts(20))
    given = settings(tmp_path)
    fakes.run_here(given)
    written = next((tmp_path / "index" / "_docs" / "epochs").glob("*.json")).read_text()
    assert '"text"' not in written.replace('"text_columns":["text"]', "").replace('"text":"string"', "")
    assert '"filters"' not in written


@pytest.mark.parametrize(
    ("tokenizer", "query", "finds"),
    [
        ({"language": "German"}, "Häuser", True),
        ({"language": "German", "stem": False}, "Häuser", False),
        ({"tokenizer": "icu"}, "東京", True),
        ({}, "東京", False),
        ({"tokenizer": "ngram"}, "京都", True),
        ({"tokenizer": "ngram"}, "xyzzy", False),
        ({"stop_words": False}, "the", True),
        ({}, "the", False),
        ({"ascii_folding": False}, "cafe", False),
        ({}, "cafe", True),
    ],
)
def test_the_tokenizer_is_a_setting(tmp_path: Path, tokenizer: dict[str, Any], query: str, finds: bool) -> None:  # noqa: FBT001
    path = str(tmp_path / "t.lance")
    rows = pa.table({"id": ["a"], "chunk": pa.array([0], pa.int32()), "text": ["the Haus in 東京都に住む Café und"]})
    dataset = lance.write_dataset(rows, path)
    given = settings(tmp_path, text_search=["text"], text=tokenizer).index
    record = text_index.TextRecord(columns=["text"], **given.text.model_dump())
    scalar_indices.build(dataset, text_index.spec("text", record))
    assert text_index.is_built(dataset, "text", record)
    assert bool(text_index.search(dataset, query, ["text"], 5, None, ["id", "chunk"])) is finds
    other = record.model_copy(update={"stem": not record.stem, "ascii_folding": not record.ascii_folding})
    assert not text_index.is_built(dataset, "text", other), "a changed tokenizer builds the index anew"


def test_columns_that_cannot_be_searched_are_refused_by_name(tmp_path: Path) -> None:
    fakes.write(tmp_path / "corpus" / "a.parquet", texts(5))
    with pytest.raises(
        ValueError, match=r"index\.text_search: column 'title' is not stored: add it to corpus\.payload"
    ):
        settings(tmp_path, text_search=["title"])
    with pytest.raises(ValueError, match=r"index\.filters: column 'year' is not stored"):
        settings(tmp_path, filters=["year"])
    table = pa.table({"id": ["a"], "text": ["b"], "kind": [3]})
    (tmp_path / "corpus" / "a.parquet").unlink()
    pa.parquet.write_table(table, tmp_path / "corpus" / "b.parquet")
    with pytest.raises(SettingsError, match=r"index\.text_search: column 'kind' of type int64 cannot have this index"):
        fakes.run_here(settings(tmp_path, text_search=["kind"]))


def test_an_index_that_does_not_find_its_documents_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write(tmp_path / "corpus" / "a.parquet", texts(60))

    def without_words(column: str, _: text_index.TextRecord) -> IndexSpec:
        """Every row is indexed, and under nothing that stands in it."""
        return IndexSpec(text_index.index_name(column), column, "INVERTED", {"base_tokenizer": "raw"})

    monkeypatch.setattr(text_index, "spec", without_words)
    with pytest.raises(RefusedError, match=r"text_found is 0, allowed 0\.95"):
        fakes.run_here(settings(tmp_path, **SEARCHED))
