"""Documents of files that cannot be read, or go bad while a night reads them, stay published."""

import os
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import RefusedError
from indexer.indexing import changes, embed
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from tests.support.fakes import published_rows, published_vectors, run_here, settings, words, write

pytestmark = pytest.mark.heavy


def given_corpus(root: Path) -> Settings:
    """Two sound files, and gates that let everything through."""
    write(root / "corpus" / "a.parquet", words(30))
    write(root / "corpus" / "c.parquet", [(f"c-{name}", text) for name, text in words(30)])
    return settings(root, gates={"max_quarantined": 1.0, "max_removed": 1.0})


def test_documents_of_a_bad_file_stay_published_until_it_is_read_or_gone(tmp_path: Path) -> None:
    given = given_corpus(tmp_path)
    run_here(given)
    bad = tmp_path / "corpus" / "c.parquet"
    sound = bad.read_bytes()
    bad.write_bytes(sound[:-40])
    write(tmp_path / "corpus" / "a.parquet", words(29))
    summary = run_here(given)
    assert [summary[name] for name in ("kept", "deleted", "unchanged", "quarantined")] == [30, 1, 29, 1]
    assert len(published_rows(given, 96)) == 59
    assert summary["quarantine_reasons"] == {"bad_file": 1}
    assert run_here(given)["epoch"] == 2, "the next night the file is bad still, and its documents are known still"
    write(tmp_path / "corpus" / "a.parquet", words(28))
    assert run_here(given)["kept"] == 30
    bad.write_bytes(sound)
    assert [run_here(given)[name] for name in ("kept", "quarantined")] == [0, 0]
    bad.write_bytes(sound[:-40])
    run_here(given)
    bad.unlink()
    assert run_here(given)["deleted"] == 30
    assert len(published_rows(given, 96)) == 28


def test_gates_count_the_rows_of_a_bad_file(tmp_path: Path) -> None:
    given = given_corpus(tmp_path)
    for name in "xy":
        write(tmp_path / "corpus" / f"{name}.parquet", [(name, "a text")])
    run_here(given)
    bad = tmp_path / "corpus" / "c.parquet"
    damaged = bytearray(bad.read_bytes())
    damaged[4:60] = os.urandom(56)
    strict = given.model_copy(update={"gates": given.gates.model_copy(update={"max_quarantined": 0.4})})
    for content in (bytes(damaged), bytes(damaged[:-40])):  # rows of its footer, rows of its last digest
        bad.write_bytes(content)
        with pytest.raises(RefusedError, match=r"gates\.max_quarantined is 0\.4839, allowed 0\.4"):
            run_here(strict)
    assert run_here(given)["kept"] == 30


def goes_bad(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """The file is cut off once the corpus is compared."""
    real_compare = changes.compare

    def truncates(*arguments: object) -> object:
        found = real_compare(*arguments)
        path.write_bytes(path.read_bytes()[:-40])
        return found

    monkeypatch.setattr(changes, "compare", truncates)


def counts(summary: dict[str, Any], *names: str) -> list[int]:
    return [summary[name] for name in names]


def ids_of(given: Settings) -> set[str]:
    return {name for name, _ in published_rows(given, 96)}


def test_a_resumed_run_reads_a_file_that_is_whole_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The killed run staged shards without the documents that it could not read: they are not done."""
    given = given_corpus(tmp_path)
    bad = tmp_path / "corpus" / "c.parquet"
    sound = bad.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            goes_bad(patch, bad)
            patch.setattr(ControlStore, "put_intent", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_here(given)
        bad.write_bytes(sound)
    summary = run_here(given)
    assert counts(summary, "indexed", "kept", "quarantined") == [60, 0, 0]
    assert len(ids_of(given)) == 60
    assert summary["resumed_shards"] > 0


def test_documents_that_move_in_a_file_that_goes_bad_stay_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_corpus(tmp_path)
    run_here(given)
    before = ids_of(given)
    moved = tmp_path / "corpus" / "c.parquet"
    write(moved, [(f"d-{name}", text) for name, text in words(30)])
    with monkeypatch.context() as patch:
        goes_bad(patch, moved)
        summary = run_here(given)
    assert counts(summary, "indexed", "moved", "quarantined", "kept") == [0, 0, 30, 30]
    assert ids_of(given) == before
    write(tmp_path / "corpus" / "a.parquet", words(29))
    assert counts(run_here(given), "kept", "deleted") == [30, 1], "the file is bad the next night too"
    write(moved, [(f"d-{name}", text) for name, text in words(30)])
    assert run_here(given)["kept"] == 0
    assert ids_of(given) == {f"d-{name}" for name, _ in words(30)} | {name for name, _ in words(29)}


def test_documents_that_change_in_a_file_that_goes_bad_stay_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_corpus(tmp_path)
    run_here(given)
    before = published_vectors(given, 96)
    changed = tmp_path / "corpus" / "c.parquet"
    # 20 changed, 10 gone, 5 new
    after = [(f"c-{name}", f"{text} again") for name, text in words(20)] + [
        (f"n-{name}", text) for name, text in words(5, 2)
    ]
    write(changed, after)
    write(tmp_path / "corpus" / "a.parquet", [(name, f"{text} again") for name, text in words(30)])
    with monkeypatch.context() as patch:
        goes_bad(patch, changed)
        summary = run_here(given)
    compared = counts(summary, "documents", "new", "changed", "unchanged", "deleted", "kept")
    assert compared == [55, 5, 30, 0, 0, 30]
    assert counts(summary, "indexed", "quarantined") == [30, 25]
    published_now = published_vectors(given, 96)
    assert published_now.keys() == before.keys()
    assert all((published_now[name] == before[name]).all() for name in before if name.startswith("c-"))
    assert not any((published_now[name] == before[name]).all() for name in before if name.startswith("doc-"))
    assert run_here(given)["kept"] == 30, "the file is bad still"
    write(changed, after)
    assert counts(run_here(given), "indexed", "deleted", "kept") == [25, 10, 0]
    assert ids_of(given) == {name for name, _ in after} | {name for name, _ in words(30)}


def test_a_file_that_goes_bad_half_way_keeps_what_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its new documents are published then, and stay so while the file is bad."""
    given = given_corpus(tmp_path)
    changed = tmp_path / "corpus" / "c.parquet"
    many = [(f"c-{name}", text) for name, text in words(300)]
    write(changed, many)
    run_here(given)
    write(changed, [(f"d-{name}", f"{text} again") for name, text in words(150)] + many[150:])
    real, reads = embed.read_part, []

    def truncates(*arguments: object) -> object:
        reads.append(arguments)
        if len(reads) == 2:
            changed.write_bytes(changed.read_bytes()[:-40])
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(embed, "read_part", truncates)
        summary = run_here(given)
    indexed = summary["indexed"]
    assert 0 < indexed < 150
    assert (summary["quarantined"], summary["kept"]) == (150 - indexed, 150)
    known = ids_of(given)
    assert len(known) == 30 + 300 + indexed
    write(tmp_path / "corpus" / "a.parquet", words(31))
    assert counts(run_here(given), "indexed", "deleted", "kept") == [1, 0, 300 + indexed]
    assert ids_of(given) == known | {"doc-00030"}
