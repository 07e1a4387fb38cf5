"""Bad input of every source ends as that of Parquet does: rows one by one, files by name with their documents kept."""

from pathlib import Path
from typing import Any

import lance
import pytest

from indexer.settings import Settings
from tests.support import sources
from tests.support.fakes import published_rows, quarantine, run_here, settings, words
from tests.support.sources import Row

pytestmark = pytest.mark.heavy

ROWS: list[Row] = [(name, text, "page") for name, text in words(40)]

NO_TEXT = ("no text", "", "page")

MALFORMED = {"jsonl": b'{"id": "cut", "te', "csv": b"one field\n"}
"""A row that cannot be read, in the formats that have such."""

CUT = {"csv": b'id,text,kind\nd,"cut', "jsonl": b""}
"""Content of a file that was cut, where cutting any file does not show."""

FOUND = {
    "parquet": [("no text", "empty_text")],
    "jsonl": [("no text", "empty_text"), (None, "malformed")],
    "csv": [("no text", "null_text"), (None, "malformed")],
    "lance": [("no text", "empty_text")],
}
"""Rows that :func:`spoil` adds, with their reasons."""


def given(root: Path) -> Settings:
    return settings(root, gates={"max_quarantined": 1.0, "max_removed": 1.0})


def counts(summary: dict[str, Any]) -> dict[str, int]:
    return {name: summary[name] for name in ("indexed", "kept", "deleted", "unchanged", "quarantined")}


def spoil(folder: Path, suffix: str) -> None:
    """Adds bad rows to a file or fragment, and cuts another with 20 documents."""
    if suffix == "lance":
        dataset = lance.dataset(f"{folder}/docs.lance")
        dataset.insert(sources.table([NO_TEXT]))
        # A fragment is read again if something is deleted in it: its files themselves never change.
        dataset.delete(f"id = '{ROWS[-1][0]}'")
        data = folder / "docs.lance" / "data" / dataset.get_fragment(1).metadata.files[0].path
        data.write_bytes(data.read_bytes()[:-40])
        return
    with_bad_rows, bad = (folder / f"part-{number}.{suffix}" for number in range(2))
    with_bad_rows.write_bytes(sources.FILES[suffix]([*ROWS[:20], NO_TEXT]) + MALFORMED.get(suffix, b""))
    bad.write_bytes(CUT.get(suffix, bad.read_bytes()[:-20]))


@pytest.mark.parametrize("suffix", FOUND)
def test_a_bad_row_and_a_bad_file_cost_no_published_document(tmp_path: Path, suffix: str) -> None:
    with sources.source(suffix, tmp_path / "corpus", ROWS):
        assert counts(run_here(given(tmp_path))) == {
            "indexed": 40, "kept": 0, "deleted": 0, "unchanged": 0, "quarantined": 0,
        }  # fmt: skip
        spoil(tmp_path / "corpus", suffix)
        summary = run_here(given(tmp_path))
    found = [(None, "bad_file"), *FOUND[suffix]]
    assert counts(summary) == {
        "indexed": 0, "kept": 20, "deleted": 0, "unchanged": 20, "quarantined": len(found),
    }  # fmt: skip
    assert sorted(quarantine(given(tmp_path)), key=str) == sorted(found, key=str)
    assert published_rows(given(tmp_path), 96) == [(name, 0) for name, *_ in ROWS]
