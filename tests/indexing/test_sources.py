"""Bad input of every source ends as that of Parquet does: rows one by one, files by name with their documents kept."""

from pathlib import Path
from typing import Any

import lance
import pytest

from indexer.settings import Settings
from tests.support import sources, stores
from tests.support.fakes import published_rows, quarantine, run_here, settings, words
from tests.support.sources import Row

pytestmark = pytest.mark.heavy

ROWS: list[Row] = [(name, text, "page" if at < 20 else "word") for at, (name, text) in enumerate(words(40))]
"""Two files or fragments of 20; in directories, one for each kind."""

NO_TEXT = ("no text", "", "page")

MALFORMED = {"jsonl": b'{"id": "cut", "te', "csv": b"one field\n"}
"""A row that cannot be read, in the formats that have such."""

CUT = {"csv": b'id,text,kind\nd,"cut', "jsonl": b'{"id": "cut", "te'}
"""Content of a file that was cut, where cutting any file does not show."""

IN_PARQUET: list[tuple[str | None, str]] = [("no text", "empty_text")]

FOUND: dict[str, list[tuple[str | None, str]]] = {
    **dict.fromkeys(("parquet", "hive", "hub", *stores.STORES), IN_PARQUET),
    "jsonl": [("no text", "empty_text"), (None, "malformed")],
    "csv": [("no text", "null_text"), (None, "malformed")],
    "lance": IN_PARQUET,
}
"""Rows that :func:`spoil` adds, with their reasons."""


def given(root: Path, uri: str) -> Settings:
    return settings(root, corpus={"uri": uri, "payload": ["kind"]}, gates={"max_quarantined": 1.0, "max_removed": 1.0})


def counts(summary: dict[str, Any]) -> dict[str, int]:
    return {name: summary[name] for name in ("indexed", "kept", "deleted", "unchanged", "quarantined")}


def spoil(folder: Path, name: str) -> None:
    """Adds bad rows to a file or fragment, and cuts another with 20 documents."""
    if name == "lance":
        dataset = lance.dataset(f"{folder}/docs.lance")
        dataset.insert(sources.table([NO_TEXT]))
        # A fragment is read again if something is deleted in it: its files themselves never change.
        dataset.delete(f"id = '{ROWS[-1][0]}'")
        data = folder / "docs.lance" / "data" / dataset.get_fragment(1).metadata.files[0].path
        data.write_bytes(data.read_bytes()[:-40])
        return
    write = sources.hive_parquet if name == "hive" else sources.FILES.get(name, sources.parquet)
    with_bad_rows, bad = sorted(path for path in folder.rglob("*") if path.is_file())
    with_bad_rows.write_bytes(write([*ROWS[:20], NO_TEXT]) + MALFORMED.get(name, b""))
    bad.write_bytes(CUT.get(name, bad.read_bytes()[:-20]))


@pytest.mark.parametrize("name", [sources.param(name) for name in FOUND])
def test_a_bad_row_and_a_bad_file_cost_no_published_document(tmp_path: Path, name: str) -> None:
    with sources.source(name, tmp_path / "corpus", ROWS) as source:
        ours = given(tmp_path, source.uri)
        assert counts(run_here(ours)) == {
            "indexed": 40, "kept": 0, "deleted": 0, "unchanged": 0, "quarantined": 0,
        }  # fmt: skip
        spoil(source.folder, name)
        source.upload()
        summary = run_here(ours)
    found = [(None, "bad_file"), *FOUND[name]]
    assert counts(summary) == {
        "indexed": 0, "kept": 20, "deleted": 0, "unchanged": 20, "quarantined": len(found),
    }  # fmt: skip
    assert sorted(quarantine(ours), key=str) == sorted(found, key=str)
    assert published_rows(ours, 96) == [(name, 0) for name, *_ in ROWS]
