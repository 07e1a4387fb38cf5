"""The last line of every night: one shape."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from indexer.commands import index as command
from indexer.errors import RefusedError, SettingsError
from indexer.indexing import summary
from tests.support.fakes import run_here, settings, words, write

pytestmark = pytest.mark.heavy


def shape(given: dict[str, Any]) -> set[str]:
    return set(given)


def test_quiet_refused_and_failed_nights_have_the_shape_of_others(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(20))
    given = settings(tmp_path)
    published, quiet = run_here(given), run_here(given)
    assert (published["status"], quiet["status"]) == ("published", "unchanged")
    assert (quiet["epoch"], quiet["documents"], quiet["unchanged"], quiet["indexed"]) == (1, 20, 20, 0)
    refused, failed = summary.of_ended(RefusedError("too much")), summary.of_ended(OSError("a text"))
    assert (refused["status"], refused["error"]) == ("refused", "too much")
    assert (failed["status"], failed["error"]) == ("failed", "OSError")
    assert summary.of_ended(KeyboardInterrupt())["status"] == "interrupted"
    assert shape(published) == shape(quiet) == shape(refused) == shape(failed)


def test_what_fails_before_it_begins_has_a_last_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["index", "--config", str(tmp_path / "none.toml")])
    with pytest.raises(SettingsError):
        command.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["status"] == "failed"


def test_changed_text_columns_are_refused_with_both_values(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    run_here(settings(tmp_path))
    with pytest.raises(
        SettingsError, match=r"text_columns \(published: \['text'\], asked: \['kind'\]\); vectors are never"
    ):
        run_here(settings(tmp_path, corpus={"text_columns": ["kind"]}))
    with pytest.raises(SettingsError, match=r"max_tokens \(published: 128, asked: 64\)") as refused:
        run_here(settings(tmp_path, model={"max_tokens": 64}))
    assert "tokenizer" not in str(refused.value)
    others = {"overflow": "chunk", "chunk_overlap": 8}
    with pytest.raises(SettingsError, match=r"overflow \(published: truncate, asked: chunk\)") as refused:
        run_here(settings(tmp_path, model=others))
    assert re.search(r"chunk_overlap \(published: \d+, asked: 8\)", str(refused.value))
    assert "tokenizer" not in str(refused.value)
    run_here(settings(tmp_path, index={"widths": [96]}))
    with pytest.raises(
        SettingsError, match=r"index\.widths \(published: \[96\], asked: \[384\]\); the widest stored vectors"
    ) as refused:
        run_here(settings(tmp_path, index={"widths": [384]}))
    assert "mixed" not in str(refused.value), "only vectors are mixed"
    with pytest.raises(SettingsError, match=r"max_tokens: 9000 is above the checkpoint's max_seq_length 256"):
        run_here(settings(tmp_path, model={"max_tokens": 9000}))


def test_a_night_may_embed_a_share_again(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(20))
    run_here(settings(tmp_path))
    write(tmp_path / "corpus" / "a.parquet", [*words(10), *((name, f"new {text}") for name, text in words(20)[10:])])
    with pytest.raises(RefusedError, match=r"gates\.max_changed is 0\.5, allowed 0\.4"):
        run_here(settings(tmp_path, gates={"max_changed": 0.4}))
    assert run_here(settings(tmp_path))["changed"] == 10


def test_a_receipt_says_why_its_documents_were_refused(tmp_path: Path) -> None:
    """The metrics of a run in progress count them."""
    write(tmp_path / "corpus" / "a.parquet", [*words(5), ("long", "word " * 400)])
    given = settings(tmp_path, model={"overflow": "quarantine"})
    assert run_here(given)["quarantine_reasons"] == {"too_long": 1}
    folder = tmp_path / "index" / "_docs" / "receipts"
    receipts = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("*.json")]
    assert [receipt["reasons"] for receipt in receipts if receipt["quarantined"]] == [{"too_long": 1}]
