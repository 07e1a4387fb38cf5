"""Nights that compare changed files alone, on real digests and tables, beside the comparison of the whole corpus."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.indexing import changes, equal_texts
from indexer.publishing import history, identity
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.storage.digest_files import DigestFiles
from tests.support import both_ways
from tests.support.fakes import published_rows, quarantine, run_here, settings, words, write

pytestmark = pytest.mark.heavy

DOCUMENTS = words(60)


@pytest.fixture(autouse=True)
def compared(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many comparisons of each kind there were; both ways must agree."""
    monkeypatch.setattr(changes, "_of_changed_files", changes._of_changed_files)
    monkeypatch.setattr(equal_texts, "_known", equal_texts._known)
    monkeypatch.setattr(identity, "_updated", identity._updated)
    monkeypatch.setattr(identity, "FEW", identity.FEW)
    both_ways.COMPARED |= {"alone": 0, "in full": 0}
    both_ways.SUMMED |= {"updated": 0, "in full": 0}
    both_ways.install()
    return both_ways.COMPARED


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Settings of an index of three files."""
    for number in range(3):
        write(tmp_path / "corpus" / f"{number}.parquet", DOCUMENTS[20 * number : 20 * number + 20])
    return settings(tmp_path, index={"widths": [32]}, gates={"max_removed": 1.0, "max_quarantined": 1.0})


def test_nights_of_changed_files(given: Settings, compared: dict[str, int]) -> None:
    corpus = Path(given.corpus.uri)
    run_here(given)
    # A change, a document of an unchanged file with another text, a null id and an empty text.
    other = (DOCUMENTS[45][0], "another text")
    write(corpus / "0.parquet", [("doc-00000", "changed"), *DOCUMENTS[1:19], other, (None, "x"), ("empty", " ")])
    done = run_here(given)
    counts = {name: done[name] for name in ("new", "changed", "deleted", "quarantined", "documents")}
    assert counts == {"new": 0, "changed": 1, "deleted": 2, "quarantined": 4, "documents": 62}
    assert quarantine(given) == [
        *[("doc-00045", "duplicate_id")] * 2,
        ("empty", "empty_text"),
        (None, "null_id"),
    ]
    # The quarantined id becomes free, and the first copy of a document goes away.
    write(corpus / "0.parquet", [("doc-00000", "changed"), *DOCUMENTS[1:19], DOCUMENTS[30]])
    done = run_here(given)
    assert (done["new"], done["deleted"], done["quarantined"], done["duplicates"]) == (1, 0, 0, 1)
    write(corpus / "1.parquet", [row for row in DOCUMENTS[20:40] if row != DOCUMENTS[30]])
    (corpus / "2.parquet").rename(corpus / "3.parquet")
    assert run_here(given)["epoch"] == 3
    assert compared == {"alone": 3, "in full": 1}
    assert both_ways.SUMMED == {"updated": 4, "in full": 2}
    assert published_rows(given, 32) == sorted((name, 0) for name, _ in [*DOCUMENTS[:19], *DOCUMENTS[20:]])


def test_the_whole_corpus_is_compared_when_the_epoch_does_not_tell_enough(
    given: Settings, compared: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = Path(given.corpus.uri)
    run_here(given)
    store = ControlStore(given.index.uri, given.index.name)
    described = store.epoch(1).description
    # Somebody puts another digest in the place of the one that the epoch was made of.
    name = store.digests.get_list(str(described.files))[str(corpus / "0.parquet")]
    digest = store.digests.read(
        name, ["row", "id", "content_hash", "payload_hash", "text_bytes", "payload_bytes", "reason"]
    )
    other = digest.set_column(1, "id", pa.array([f"other-{row}" for row in range(20)]))
    store.digests.forget(lambda known, _: known == name)
    store.digests.put(name, other)
    write(corpus / "0.parquet", DOCUMENTS[:19])
    run_here(given)
    assert "is neither published nor quarantined: comparing the whole corpus" in capsys.readouterr().err
    # The list of digests is gone.
    (Path(given.index.uri) / "_docs" / str(store.epoch(2).description.files)).unlink()
    write(corpus / "0.parquet", DOCUMENTS[:18])
    assert run_here(given)["deleted"] == 1
    assert compared == {"alone": 0, "in full": 3}


def test_ids_with_copies_alone_are_searched_in_unchanged_files(
    given: Settings, compared: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = DigestFiles.find

    def noted(digests: DigestFiles, name: str, ids: pa.Array) -> pa.Table:
        asked.append(ids.to_pylist())
        return real(digests, name, ids)

    def searched(rows: list[tuple[str, str]]) -> list[list[str]]:
        asked.clear()
        write(Path(given.corpus.uri) / "0.parquet", rows)
        assert run_here(given)["duplicates"] == 1
        return list(asked)

    monkeypatch.setattr(DigestFiles, "find", noted)
    write(Path(given.corpus.uri) / "2.parquet", [*DOCUMENTS[40:60], DOCUMENTS[0]])
    run_here(given)
    assert searched(DOCUMENTS[:10]) == [], "no row of the copied document differs"
    # Epochs before this list, and one of which somebody deleted it, let all ids be searched.
    store = ControlStore(given.index.uri, "docs")
    (Path(given.index.uri) / "_docs" / str(store.epoch(2).description.copies)).unlink()
    assert searched(DOCUMENTS[:9]) == [["doc-00009"]] * 2
    assert store.epoch(3).description.copies is None
    assert searched(DOCUMENTS[:8]) == [["doc-00008"]] * 2
    # A check in full finds them again; a rollback keeps them, also when the epoch that they were listed for is pruned.
    full = given.model_copy(update={"run": given.run.model_copy(update={"full_check_every": 1})})
    write(Path(given.corpus.uri) / "0.parquet", DOCUMENTS[:7])
    run_here(full)
    history.rollback(given.index.uri, store, 5)
    history.prune(given.index.uri, store, 1)
    assert searched(DOCUMENTS[:6]) == []
    changed = [("doc-00000", "another text"), *DOCUMENTS[1:6]]
    asked.clear()
    write(Path(given.corpus.uri) / "0.parquet", changed)
    run_here(given)
    assert asked == [["doc-00000"]] * 2, "both of its rows conflict"
    assert ("doc-00000", "duplicate_id") in quarantine(given)
    assert store.latest_epoch().description.copies is None  # type: ignore[union-attr]
    assert compared == {"alone": 5, "in full": 2}


def test_every_so_many_epochs_the_whole_corpus_is_compared(given: Settings, compared: dict[str, int]) -> None:
    rhythm = given.model_copy(update={"run": given.run.model_copy(update={"full_check_every": 2})})
    store = ControlStore(given.index.uri, given.index.name)
    for night in range(4):
        write(Path(given.corpus.uri) / "0.parquet", DOCUMENTS[: 20 - night])
        run_here(rhythm)
    assert [epoch.description.checked_in_full for epoch in store.epochs()] == [1, 1, 3, 3]
    assert compared == {"alone": 2, "in full": 2}
    assert both_ways.SUMMED == {"updated": 4, "in full": 4}


def test_a_file_that_never_could_be_read_lets_nights_compare_what_changed(
    given: Settings, compared: dict[str, int]
) -> None:
    corpus = Path(given.corpus.uri)
    given = given.model_copy(update={"corpus": given.corpus.model_copy(update={"strict": False})})
    run_here(given)
    (corpus / "1-bad.parquet").write_bytes(b"no Parquet")
    assert run_here(given)["quarantined"] == 1
    for left in (19, 18):
        write(corpus / "0.parquet", DOCUMENTS[:left])
        done = run_here(given)
        assert {name: done[name] for name in ("deleted", "quarantined", "documents")} == {
            "deleted": 1,
            "quarantined": 1,
            "documents": 41 + left,
        }
    assert run_here(given)["status"] == "unchanged"
    # Another reason, then documents, of which one is another file's too.
    pq.write_table(pa.table({"id": ["more"], "body": ["text"]}), corpus / "1-bad.parquet")
    run_here(given)
    assert quarantine(given) == [(None, "wrong_columns")]
    write(corpus / "1-bad.parquet", [("more", "text"), DOCUMENTS[25]])
    done = run_here(given)
    assert (done["new"], done["duplicates"], done["quarantined"]) == (1, 1, 0)
    assert compared == {"alone": 6, "in full": 1}
    # Documents that it had stay published while it cannot be read: then the whole corpus tells which.
    (corpus / "1-bad.parquet").write_bytes(b"no Parquet")
    assert run_here(given)["kept"] == 1
    write(corpus / "0.parquet", DOCUMENTS[:17])
    assert run_here(given)["kept"] == 1
    assert compared == {"alone": 6, "in full": 3}
