"""Bad input of every source ends as that of Parquet does: rows one by one, files by name with their documents kept."""

from pathlib import Path
from typing import Any

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

BAD_ROWS = {
    "parquet": [("no text", "empty_text")],
    "jsonl": [("no text", "empty_text"), (None, "malformed")],
    "jsonl.gz": [("no text", "empty_text")],
    "csv": [("no text", "null_text"), (None, "malformed")],
}


def given(root: Path) -> Settings:
    return settings(root, gates={"max_quarantined": 1.0, "max_removed": 1.0})


def counts(summary: dict[str, Any]) -> tuple[int, ...]:
    return tuple(summary[name] for name in ("indexed", "kept", "deleted", "unchanged", "quarantined"))


@pytest.mark.parametrize("suffix", BAD_ROWS)
def test_a_bad_row_and_a_bad_file_cost_no_published_document(tmp_path: Path, suffix: str) -> None:
    sources.write_files(tmp_path / "corpus", suffix, ROWS)
    assert counts(run_here(given(tmp_path))) == (40, 0, 0, 0, 0)
    with_bad_rows, bad = (tmp_path / "corpus" / f"part-{number}.{suffix}" for number in range(2))
    content = sources.FILES[suffix]([*ROWS[:20], NO_TEXT])
    with_bad_rows.write_bytes(content + MALFORMED.get(suffix, b""))
    bad.write_bytes(CUT.get(suffix, bad.read_bytes()[:-20]))
    found = [(None, "bad_file"), *BAD_ROWS[suffix]]
    assert counts(run_here(given(tmp_path))) == (0, 20, 0, 20, len(found))
    assert sorted(quarantine(given(tmp_path)), key=str) == sorted(found, key=str)
    assert published_rows(given(tmp_path), 96) == [(name, 0) for name, *_ in ROWS]
