"""Documents' payload stands once, in a table of its own: written, changed, searched and given up like the others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import RefusedError, SettingsError
from indexer.indexing import embed
from indexer.indexing.embed import Batch
from indexer.publishing import compare, history
from indexer.schema import Layout
from indexer.search.published import open_published
from indexer.search.snapshot import Snapshot
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from tests.support import fakes

pytestmark = pytest.mark.heavy

COUNT = 24

LONG = 3
"""Documents of several chunks."""

EVERY = 101
"""BERT's first token, which every text has: an engine that gets any text ends the test's process."""


def write(root: Path, first: int = 0, year: int = 2000) -> None:
    rows = range(first, first + COUNT)
    columns = {
        "id": [f"doc-{row:02}" for row in rows],
        "text": [f"number{row} " + "speaks of many things. " * (60 if row < LONG else 2) for row in rows],
        "lang": [("de", "en", "fr")[row % 3] for row in rows],
        "year": [year + row for row in rows],
        "notes": [{"by": f"author {row % 5}", "tags": [f"t{row % 4}", "all"]} for row in rows],
    }
    (root / "corpus").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), root / "corpus" / "a.parquet")


def settings(root: Path, payload: str = "auto", **index: Any) -> Settings:
    return fakes.settings(
        root,
        corpus={"payload": ["text", "lang", "year", "notes"]},
        model={"overflow": "chunk", "max_tokens": 64, "chunk_overlap": 8},
        index={"uri": str(root / "index"), "widths": fakes.WIDTHS, "payload": payload, **index},
        gates={"max_removed": 1.0, "max_changed": 1.0},
    )


def snapshot(given: Settings, epoch: int | None = None) -> Snapshot:
    return open_published(given.index.uri, given.index.name, epoch=epoch).snapshot


def without_engine(given: Settings) -> dict[str, Any]:
    summary = fakes.run_here(given, exits_on=EVERY)
    assert (summary["status"], summary["tokens"]) == ("published", 0)
    return summary


def content(given: Settings, epoch: int | None = None) -> dict[int, list[dict[str, Any]]]:
    """Every row of every width with its payload, wherever that stands."""
    opened = snapshot(given, epoch)
    key = [("id", "ascending"), ("chunk", "ascending")]
    return {state.width: opened.read(state.width).sort_by(key).to_pylist() for state in opened.epoch.tables}


def stored(given: Settings, name: str) -> list[str]:
    return lance.dataset(f"{given.index.uri}/{name}.lance").schema.names


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    write(tmp_path)
    fakes.run_here(settings(tmp_path, filters=["lang"]))
    return tmp_path


def test_a_new_index_has_the_payload_once_and_filters_in_every_table(indexed: Path) -> None:
    given = settings(indexed, filters=["lang"])
    documents = lance.dataset(f"{given.index.uri}/docs_documents.lance").to_table()
    assert documents.num_rows == len(set(documents["id"].to_pylist())) == COUNT
    assert {"text", "lang", "year", "notes"} <= set(documents.schema.names)
    for name in ("docs_d384", "docs_d96"):
        assert {"text", "year", "notes"}.isdisjoint(stored(given, name))
        assert "lang" in stored(given, name)
    found = snapshot(given).epoch
    assert found.documents is not None
    assert found.tables[0].rows > found.documents.rows == COUNT
    assert found.tables[0].filters == found.documents.filters == {"lang": "BITMAP"}
    assert found.versions().keys() == {"docs_d384", "docs_d96", "docs_documents", "docs_quarantine"}
    assert history.epochs(ControlStore(given.index.uri, "docs"))[0]["rows"]["docs_documents"] == COUNT
    row = next(row for row in snapshot(given).read(96, ["year", "id", "notes"]).to_pylist() if row["id"] == "doc-07")
    assert row == {"year": 2007, "id": "doc-07", "notes": {"by": "author 2", "tags": ["t3", "all"]}}


def test_the_setting_changes_without_an_engine_and_an_index_keeps_what_it_has(indexed: Path) -> None:
    once, copies, same = (settings(indexed, kind, filters=["lang"]) for kind in ("once", "copies", "auto"))
    before = content(once)
    assert fakes.run_here(once)["status"] == fakes.run_here(same)["status"] == "unchanged"
    without_engine(copies)
    assert snapshot(copies).epoch.documents is None
    assert {"text", "lang", "year", "notes"} <= set(stored(copies, "docs_d96"))
    assert content(copies) == before
    assert fakes.run_here(same)["status"] == "unchanged", "an index with copies keeps them"
    without_engine(once)
    assert content(once) == before == content(once, 1) == content(once, 2)
    differs = compare.compare(once.index.uri, ControlStore(once.index.uri, "docs"), 2, 3)
    assert differs["settings"] == {"index.payload": ["copies", "once"]}
    assert differs["tables"]["documents rows"] == [None, COUNT]


def test_filters_come_and_go_with_their_columns(indexed: Path) -> None:
    before = content(settings(indexed))
    for filters in (["lang", "year"], []):
        given = settings(indexed, filters=filters)
        without_engine(given)
        assert set(stored(given, "docs_d96")) & {"text", "lang", "year", "notes"} == set(filters)
        assert content(given) == before
    every = settings(indexed, filters=["text", "lang", "year"])
    every = every.model_copy(update={"corpus": every.corpus.model_copy(update={"payload": ["text", "lang", "year"]})})
    without_engine(every)
    assert snapshot(every).epoch.documents is None, "every column is a filter: nothing is left to stand once"
    without_engine(settings(indexed, filters=["lang"]))
    assert content(settings(indexed)) == before


def test_nights_move_delete_and_change_documents_in_all_tables(indexed: Path) -> None:
    given, anew = settings(indexed, filters=["lang"]), settings(indexed, filters=["lang"], name="anew")
    write(indexed, first=3)
    assert fakes.run_here(given)["deleted"] == 3
    write(indexed, first=3, year=1900)
    assert without_engine(given)["payload_changed"] == COUNT
    rows = pq.read_table(indexed / "corpus" / "a.parquet")
    renamed = pa.array([f"{name}-moved" for name in rows["id"].to_pylist()])
    pq.write_table(rows.set_column(0, "id", renamed), indexed / "corpus" / "a.parquet")
    wider = settings(indexed, filters=["lang"], widths=[384, 96, 64])
    assert without_engine(wider)["moved"] == COUNT
    fakes.run_here(anew)
    found = content(wider)
    assert {width: found[width] for width in fakes.WIDTHS} == content(anew)


def test_a_rollback_and_a_prune_know_the_table(indexed: Path) -> None:
    once, copies = settings(indexed, filters=["lang"]), settings(indexed, "copies", filters=["lang"])
    before = content(once)
    without_engine(copies)
    store = ControlStore(once.index.uri, "docs")
    history.rollback(once.index.uri, store, 1)
    assert snapshot(once).epoch.documents is not None
    assert content(once) == before
    without_engine(copies)
    assert history.prune(once.index.uri, store, 1).tables == 1
    assert not (indexed / "index" / "docs_documents.lance").exists()
    assert content(copies) == before
    without_engine(settings(indexed, "once", filters=["lang"]))
    assert content(once) == before


def test_a_table_of_documents_that_lacks_one_is_not_published(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(indexed, first=5)
    whole = embed._tables

    def without_one(batches: Sequence[Batch], layout: Layout) -> dict[str, pa.Table]:
        found = whole(batches, layout)
        return found | {"docs_documents": found["docs_documents"].slice(1)}

    monkeypatch.setattr(embed, "_tables", without_one)
    with pytest.raises(RefusedError, match="tables_with_other_keys is 1, allowed 0"):
        fakes.run_here(settings(indexed, filters=["lang"]))


def test_a_table_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path)
    copies = settings(tmp_path, "copies")
    path = f"{copies.index.uri}/docs_documents.lance"
    lance.write_dataset(pa.table({"mine": [1]}), path)
    fakes.run_here(copies)
    with pytest.raises(SettingsError, match="table docs_documents exists and was not made by this program"):
        fakes.run_here(settings(tmp_path, "once"))
    assert lance.dataset(path).to_table().to_pydict() == {"mine": [1]}


def test_hits_are_those_of_an_index_with_copies(tmp_path: Path) -> None:
    """By vector, one by one and many at once, per chunk and per document, with every kind of condition."""
    write(tmp_path)
    opened = []
    for kind in ("once", "copies"):
        given = settings(tmp_path, kind, name=kind, filters=["lang"])
        fakes.run_here(given)
        opened.append(snapshot(given))
    rows = opened[1].read(384, ["id", "vector"])
    queries = np.array(rows["vector"].to_pylist(), np.float32)[:20]
    asked: list[dict[str, Any]] = [
        {"k": 5},
        {"k": 5, "per_document": True, "width": 96, "oversample": 2},
        {"k": 7, "columns": ["year", "char_start"]},
        {"k": 7, "columns": []},
        {"k": 50, "where": "lang = 'de'"},
        {"k": 50, "where": "year > 2010 AND lang = 'de'"},
        {"k": 50, "where": "notes.by = 'author 1'", "per_document": True},
        {"k": 50, "where": "year < 0"},
        {"k": 50, "where": "chunk > 0"},
    ]
    for options in asked:
        for some in (queries[:2], queries):
            once, copies = (one.nearest(some, **options) for one in opened)
            assert [[hit.id for hit in hits] for hits in once] == [[hit.id for hit in hits] for hits in copies], options
            assert once == copies, options
    assert opened[0].texts(["doc-01", "no"]) == opened[1].texts(["doc-01", "no"])
    assert opened[0].texts(["doc-01"], [1]) == opened[1].texts(["doc-01"], [1])
    assert opened[0].column(["doc-01"], "year") == [2001]
    with pytest.raises(SettingsError, match=r"'year', which stands once per document.*add 'year' to index\.filters"):
        opened[0].nearest(queries[:1], where="chunk > 0 AND year > 2010")


@pytest.mark.parametrize("overflow", ["chunk", "truncate", "quarantine"])
def test_a_new_index_stores_the_payload_once_where_documents_have_chunks(tmp_path: Path, overflow: str) -> None:
    """Without chunks, whoever opens a width table finds the payload there. Later nights keep what there is."""
    write(tmp_path)
    given = settings(tmp_path)
    given = given.model_copy(update={"model": given.model.model_copy(update={"overflow": overflow})})
    for year in (2000, 2001):
        write(tmp_path, year=year)
        fakes.run_here(given)
        once = (tmp_path / "index" / "docs_documents.lance").exists()
        assert once == (overflow == "chunk")
        columns = lance.dataset(str(tmp_path / "index" / "docs_d96.lance")).schema.names
        assert ("year" in columns) != once
