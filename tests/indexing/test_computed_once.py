"""A vector is computed once: payload, widths, precision, metric and equal texts need no engine. Fake engine, no Ray."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from indexer.errors import SettingsError
from indexer.indexing import changes, equal_texts, relayout, reusing, stage
from indexer.indexing import plan as indexing_plan
from indexer.publishing import history, publish
from indexer.search.published import open_published
from indexer.settings import Settings
from indexer.storage import tables, vector_index
from indexer.storage.control import ControlStore
from tests.support import fakes
from tests.support.fakes import POISON, poison_token, published_rows, published_vectors, quarantine, run_here, words

pytestmark = pytest.mark.heavy

EVERY = 101
"""BERT's first token, which every text has: an engine that gets any text ends the test's process."""

COUNTS = ("changed", "payload_changed", "unchanged", "copied", "moved", "indexed")


def write(path: Path, rows: Sequence[tuple[str, str]], **columns: Sequence[Any]) -> None:
    """Rows with a column ``kind`` and more."""
    names, texts = zip(*rows, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": names, "text": texts, "kind": ["page"] * len(rows)} | columns), path)


def settings(root: Path, payload: Sequence[str] = ("kind",), **index: Any) -> Settings:
    loose = {"max_removed": 1.0, "max_quarantined": 1.0}
    uri = {"uri": str(root / "index"), "widths": [384, 96]}
    corpus = {"uri": str(root / "corpus"), "payload": list(payload)}
    return fakes.settings(root, corpus=corpus, index=uri | index, gates=loose)


def without_engine(given: Settings) -> dict[str, Any]:
    """A run in which no text may reach an engine, and its vectors' columns equal those of the index before."""
    summary = run_here(given, exits_on=EVERY)
    assert (summary["status"], summary["tokens"], summary["indexed"]) == ("published", 0, summary["copied"])
    return summary


def counts(summary: Mapping[str, Any]) -> list[int]:
    return [summary[name] for name in COUNTS]


def payloads(given: Settings, column: str) -> dict[str, Any]:
    table = open_published(given.index.uri, "docs").read(given.index.widths[0], ["id", column])
    return dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))


def assert_equal(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], atol: float = 0.0) -> None:
    assert found.keys() == wanted.keys()
    for name, vector in found.items():
        np.testing.assert_allclose(vector.astype(np.float32), wanted[name].astype(np.float32), atol=atol, rtol=0)


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """An index of 30 documents with 384 and 96 components."""
    write(tmp_path / "corpus" / "a.parquet", words(30), price=list(range(30)), extra=["x"] * 30)
    run_here(settings(tmp_path))
    return tmp_path


def test_a_payload_column_is_added_and_removed_without_an_engine(indexed: Path) -> None:
    before = published_vectors(settings(indexed), 96)
    wider = settings(indexed, ["kind", "price"])
    summary = without_engine(wider)
    assert counts(summary) == [0, 30, 0, 0, 0, 0]
    assert payloads(wider, "price") == {name: row for row, (name, _) in enumerate(words(30))}
    narrower = settings(indexed, ["price"])
    assert without_engine(narrower)["payload_changed"] == 30
    table = open_published(narrower.index.uri, "docs").table()
    assert "kind" not in table.schema.names
    assert_equal(published_vectors(narrower, 96), before)
    assert run_here(narrower)["status"] == "unchanged"


def test_values_and_types_of_the_payload_change_without_an_engine(indexed: Path) -> None:
    given = settings(indexed, ["price"])
    without_engine(given)
    before = published_vectors(given, 384)
    write(indexed / "corpus" / "a.parquet", words(30), price=[row + 1 for row in range(30)])
    assert counts(without_engine(given)) == [0, 30, 0, 0, 0, 0]
    assert payloads(given, "price")["doc-00003"] == 4
    # The text of 0.1 is the same in both types, and its value is not: every value is read again.
    write(indexed / "corpus" / "a.parquet", words(30), price=pa.array([0.1] * 30, pa.float32()))
    without_engine(given)
    write(indexed / "corpus" / "a.parquet", words(30), price=[0.1] * 30)
    assert without_engine(given)["payload_changed"] == 30
    assert payloads(given, "price")["doc-00003"] == 0.1
    assert_equal(published_vectors(given, 384), before)


def test_widths_come_and_go_without_an_engine(indexed: Path) -> None:
    wide = published_vectors(settings(indexed), 384)
    more = settings(indexed, widths=[384, 96, 64])
    summary = without_engine(more)
    assert [table["name"] for table in summary["tables"]] == ["docs_d384", "docs_d96", "docs_d64"]
    exact = {name: vector[:64] / np.linalg.norm(vector[:64]) for name, vector in wide.items()}
    assert_equal(published_vectors(more, 64), exact, atol=1e-6)
    fewer = settings(indexed, widths=[64])
    assert [table["name"] for table in without_engine(fewer)["tables"]] == ["docs_d64"]
    store = ControlStore(fewer.index.uri, "docs")
    history.rollback(fewer.index.uri, store, 1)
    assert [table.width for table in open_published(fewer.index.uri, "docs").epoch.tables] == [384, 96]
    assert_equal(published_vectors(settings(indexed), 384), wide)
    without_engine(fewer)
    history.prune(fewer.index.uri, store, keep=1)
    assert sorted(path.name for path in (indexed / "index").glob("docs_d[0-9]*")) == ["docs_d64.lance"]
    assert_equal(published_vectors(fewer, 64), exact, atol=1e-6)


def test_precision_and_metric_change_without_an_engine(indexed: Path) -> None:
    before = published_vectors(settings(indexed), 96)
    half = settings(indexed, precision="float16")
    without_engine(half)
    found = published_vectors(half, 96)
    assert {vector.dtype for vector in found.values()} == {np.dtype(np.float16)}
    assert_equal(found, before, atol=1e-3)
    history.rollback(half.index.uri, ControlStore(half.index.uri, "docs"), 1)
    assert_equal(published_vectors(half, 96), before)
    without_engine(half)
    dot = settings(indexed, precision="float16", metric="dot", vector_index="IVF_FLAT")
    without_engine(dot)
    published = open_published(dot.index.uri, "docs")
    assert [table.index for table in published.epoch.tables] == ["IVF_FLAT", "IVF_FLAT"]
    assert published.epoch.description.layout.metric == "dot"
    cosine = settings(indexed, precision="float16", vector_index="IVF_FLAT")
    done = without_engine(cosine)["maintenance"]
    assert {done[name]["vector_index"] for name in ("docs_d384", "docs_d96")} == {"trained"}
    latest = tables.open_latest(cosine.index.uri, "docs_d96")
    assert latest is not None
    assert vector_index._index_metric(latest) == "cosine"
    assert run_here(cosine)["status"] == "unchanged"


def test_documents_and_layout_change_in_one_night(indexed: Path) -> None:
    rows = [*words(30)[5:], ("new", "a new one"), ("copy", words(30)[9][1])]
    write(indexed / "corpus" / "a.parquet", [("moved", words(30)[0][1]), *rows], price=["a"] * 28)
    given = settings(indexed, ["price", "kind"], widths=[384, 48], precision="float16")
    plan = indexing_plan.plan(given)
    assert (plan["to_embed"], plan["payload_changed"], plan["moved"], plan["copied"]) == (1, 25, 1, 1)
    assert [text.split(" (")[0] for text in plan["changes"]] == [
        "index.widths",
        "index.precision",
        "corpus.payload: price",
    ]
    assert "index.precision (published: float32, asked: float16): from stored" in indexing_plan.in_words(plan)
    summary = run_here(given)
    assert counts(summary) == [0, 25, 0, 1, 1, 2]
    assert summary["tokens"] < 10
    assert published_rows(given, 48) == sorted((name, 0) for name in ["moved", *dict(rows)])
    found = published_vectors(given, 48)
    np.testing.assert_array_equal(found["copy"], found["doc-00009"])


@pytest.mark.usefixtures("ray_cluster")
def test_tasks_of_a_cluster_reuse_and_copy_too(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large nights do all of it in tasks."""
    for module in (changes, equal_texts, reusing, stage):
        monkeypatch.setattr(module, "SMALL_ROWS", 0)
    repeated = [(f"again-{row}", "an equal text") for row in range(3)]
    rows = [("moved", words(30)[0][1]), *words(30)[5:], ("copy", words(30)[9][1]), *repeated]
    write(indexed / "corpus" / "a.parquet", rows, price=["a"] * 30)
    given = settings(indexed, ["price", "kind"], widths=[384, 48])
    summary = fakes.run(given)
    assert counts(summary) == [0, 25, 0, 3, 1, 4]
    write(indexed / "corpus" / "a.parquet", [*rows[:-1], ("new", "a new one")], price=["a"] * 30)
    more = settings(indexed, ["price", "kind"], widths=[384, 96, 48], precision="float16")
    assert counts(fakes.run(more)) == [0, 0, 29, 0, 0, 1]
    assert published_rows(more, 96) == sorted((name, 0) for name, _ in [*rows[:-1], ("new", "")])


def test_what_nothing_stored_gives_is_refused_with_its_cost(indexed: Path) -> None:
    narrow = settings(indexed, widths=[96], precision="float16")
    without_engine(narrow)
    with pytest.raises(
        SettingsError, match=r"index\.widths .*the widest stored vectors have 96 components.*--rebuild"
    ) as no:
        run_here(settings(indexed, widths=[384], precision="float16"))
    assert "it embeds all 30 vectors again, about " in str(no.value)
    with pytest.raises(SettingsError, match=r"what float16 rounded away cannot be restored"):
        run_here(settings(indexed, widths=[96]))
    assert run_here(settings(indexed), rebuild=True)["indexed"] == 30


def test_other_types_of_an_unreadable_file_are_read_when_it_can_be(indexed: Path) -> None:
    """The text 7 and the number have one hash, but stood beside a text that is no number: it may not stay null."""
    file = indexed / "corpus" / "b.parquet"
    write(file, [("b", "one more"), ("c", "and another")], price=["x7", "7"])
    write(indexed / "corpus" / "a.parquet", words(30), price=["1"] * 30)
    given = settings(indexed, ["price"])
    run_here(given)
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    write(indexed / "corpus" / "a.parquet", words(30), price=[1] * 30)
    assert without_engine(given)["kept"] == 2
    assert payloads(given, "price") == {"b": None, "c": None} | {name: 1 for name, _ in words(30)}
    write(file, [("b", "one more"), ("c", "and another")], price=[7, 7])
    assert without_engine(given)["payload_changed"] == 2
    assert (payloads(given, "price")["b"], payloads(given, "price")["c"]) == (7, 7)


@pytest.mark.parametrize("payload", [["kind"], ["kind", "price"]])
def test_documents_of_an_unreadable_file_come_along(indexed: Path, payload: list[str]) -> None:
    """Values of a new column are not known until the file can be read again."""
    other = [(f"b-{name}", text) for name, text in words(10, seed=3)]
    file = indexed / "corpus" / "b.parquet"
    write(file, other, price=list(range(10)))
    run_here(settings(indexed))
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    given = settings(indexed, payload, widths=[384, 64])
    assert without_engine(given)["kept"] == 10
    assert published_rows(given, 64) == sorted((name, 0) for name, _ in [*words(30), *other])
    file.write_bytes(whole)
    if "price" in payload:
        assert payloads(given, "price")["b-doc-00003"] is None
        assert without_engine(given)["payload_changed"] == 10
        assert payloads(given, "price")["b-doc-00003"] == 3


def test_equal_texts_are_embedded_once(tmp_path: Path) -> None:
    rows = words(70)
    copies = [(f"copy-{name}", text) for name, text in rows[:30]]
    write(tmp_path / "corpus" / "a.parquet", [*rows[:40], *copies[:10]])
    write(tmp_path / "corpus" / "b.parquet", [*copies[10:], *rows[40:]])
    summary = run_here(settings(tmp_path))
    alone = tmp_path / "alone"
    write(alone / "corpus" / "a.parquet", rows)
    assert summary["tokens"] == run_here(settings(alone))["tokens"]
    assert (summary["new"], summary["indexed"], summary["copied"]) == (100, 100, 30)
    found = published_vectors(settings(tmp_path), 96)
    assert found.keys() == dict([*rows, *copies]).keys()
    assert all(np.array_equal(found[name], found[f"copy-{name}"]) for name, _ in rows[:30])
    assert run_here(settings(tmp_path))["status"] == "unchanged"


def test_a_copy_outlives_the_document_it_was_taken_from(indexed: Path) -> None:
    """In the same night, and with a document that takes the other's text."""
    rows = words(30)
    first = published_vectors(settings(indexed), 384)
    swapped = [("doc-00001", rows[2][1]), ("doc-00002", rows[1][1]), ("copy", rows[0][1]), *rows[3:]]
    write(indexed / "corpus" / "a.parquet", swapped)
    summary = without_engine(settings(indexed))
    assert counts(summary) == [2, 0, 27, 2, 1, 2]
    found = published_vectors(settings(indexed), 384)
    for name, source in (("copy", "doc-00000"), ("doc-00001", "doc-00002"), ("doc-00002", "doc-00001")):
        np.testing.assert_array_equal(found[name], first[source])


def test_copies_of_a_text_that_the_engine_cannot_embed_are_all_quarantined(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", [*words(10), *((f"bad-{row}", POISON) for row in range(3))])
    summary = run_here(settings(tmp_path), nan_on=poison_token())
    assert (summary["indexed"], summary["quarantined"], summary["copied"]) == (10, 3, 0)
    assert quarantine(settings(tmp_path)) == [(f"bad-{row}", "bad_vector") for row in range(3)]


def test_moving_forward_again_uses_the_vectors_of_the_later_epoch(indexed: Path) -> None:
    later = [*words(10, seed=4), *words(30)[10:]]
    write(indexed / "corpus" / "a.parquet", later)
    run_here(settings(indexed))
    forward = published_vectors(settings(indexed), 384)
    history.rollback(str(indexed / "index"), ControlStore(str(indexed / "index"), "docs"), 1)
    summary = without_engine(settings(indexed))
    assert (summary["epoch"], summary["changed"], summary["copied"]) == (4, 10, 10)
    assert_equal(published_vectors(settings(indexed), 384), forward)


def test_a_text_that_grew_at_its_end_embeds_its_end(tmp_path: Path) -> None:
    def given(**index: Any) -> Settings:
        model = {"max_tokens": 64, "overflow": "chunk", "chunk_overlap": 8}
        return fakes.settings(tmp_path, model=model, index={"widths": [384, 96]} | index)

    def found(width: int) -> dict[int, list[float]]:
        table = open_published(str(tmp_path / "index"), "docs").read(width, ["id", "chunk", "vector"])
        table = table.filter(pc.field("id") == "long")
        return dict(zip(table["chunk"].to_pylist(), table["vector"].to_pylist(), strict=True))

    text = " ".join(f"Sentence {row} speaks of {row * 7919 % 1000} things." for row in range(140))
    write(tmp_path / "corpus" / "a.parquet", [("long", text), *words(5)])
    first = run_here(given())
    before = found(96)
    assert len(before) > 15
    write(tmp_path / "corpus" / "a.parquet", [("long", f"{text} One more."), *words(5)])
    grown = run_here(given())
    assert (grown["changed"], grown["chunks"]) == (1, len(found(96)))
    assert 0 < grown["tokens"] <= 2 * 64
    np.testing.assert_allclose(
        [found(96)[chunk] for chunk in range(15)], [before[chunk] for chunk in range(15)], atol=1e-6
    )
    write(tmp_path / "corpus" / "a.parquet", [("moved", f"{text} One more."), ("long", text), *words(5)])
    changed = run_here(given(widths=[384, 64]))
    assert changed["tokens"] <= 2 * 64
    assert found(64).keys() == before.keys()
    assert first["tokens"] > 1000


def test_files_can_be_told_by_their_bytes(tmp_path: Path) -> None:
    """A file that is rewritten with its size and time, and one that only gets another time."""
    file = tmp_path / "corpus" / "a.parquet"
    write(file, [("a", "first text"), ("b", "other")])
    content = fakes.settings(tmp_path, corpus={"identity": "content"})
    run_here(content)
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    write(file, [("a", "again text"), ("b", "other")])
    os.utime(file, ns=times)
    assert run_here(content)["changed"] == 1
    digests = sorted(path.name for path in (tmp_path / "index" / "_docs" / "digests").iterdir())
    os.utime(file, ns=(1, 1))
    assert run_here(content)["status"] == "unchanged"
    assert sorted(path.name for path in (tmp_path / "index" / "_docs" / "digests").iterdir()) == digests
    write(file, [("a", "third text"), ("b", "other")])
    os.utime(file, ns=times)
    stat = fakes.settings(tmp_path)
    assert run_here(stat)["changed"] == 1
    write(file, [("a", "hid it now"), ("b", "other")])
    os.utime(file, ns=times)
    assert run_here(stat)["status"] == "unchanged", "size and time do not tell"


def test_a_layout_change_that_was_killed_goes_on(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relayout, "PIECE_BYTES", 4 * 384 * 10)
    given = settings(indexed, widths=[384, 96, 64])
    copied: list[str] = []
    real = relayout.copy

    def copy(target: Any, work: Any) -> Any:
        if len(copied) == 2:
            raise KeyboardInterrupt
        copied.append(work.shard_id)
        return real(target, work)

    with monkeypatch.context() as patch:
        patch.setattr(relayout, "copy", copy)
        with pytest.raises(KeyboardInterrupt):
            run_here(given)
    with monkeypatch.context() as patch:
        patch.setattr(
            relayout,
            "copy",
            lambda target, work: pytest.fail("again") if work.shard_id in copied else real(target, work),
        )
        patch.setattr(publish.tables, "read", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception, match="killed here"):
            run_here(given, exits_on=EVERY)
    assert published_rows(settings(indexed), 96) == sorted((name, 0) for name, _ in words(30))
    summary = run_here(given, exits_on=EVERY)
    assert (summary["epoch"], published_rows(given, 64)) == (2, sorted((name, 0) for name, _ in words(30)))


def test_a_table_of_somebody_else_is_not_written_over(indexed: Path) -> None:
    foreign = indexed / "index" / "docs_d64.lance"
    shutil.copytree(indexed / "index" / "docs_d96.lance", foreign)
    given = settings(indexed, widths=[384, 64])
    import lance

    lance.write_dataset(pa.table({"mine": [1]}), str(foreign), mode="overwrite")
    with pytest.raises(SettingsError, match=r"docs_d64 exists and was not made by this program.*--rebuild always"):
        run_here(given)
    assert lance.dataset(str(foreign)).to_table().to_pydict() == {"mine": [1]}
    assert run_here(given, rebuild="always")["indexed"] == 30
