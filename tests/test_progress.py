"""Progress lines: what a log gets, what a terminal gets."""

import re
import sys

import pytest

from indexer import progress
from indexer.progress import Progress, say


def test_a_log_gets_time_and_level_and_a_terminal_neither(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("starting")
    say("warning: unpinned", "WARNING")
    say("error: it is full", "ERROR")
    started, warned, failed = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO starting", started)
    assert re.fullmatch(r"\S+Z WARNING warning: unpinned", warned)
    assert failed == "error: it is full"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say("starting")
    assert capsys.readouterr().err == "starting\n"


def test_the_time_left_is_a_range(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve documents a second at first, five in the end."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(400, "lines") as shown:
        now[0] = 10.0
        shown.add(120, 1200, 2)
        now[0] = 26.0
        shown.add(80, 800, 5)
        first, second = capsys.readouterr().err.splitlines()
        assert first.endswith("120/400 documents (30%), 120 tokens/s, 2 workers, 23 s left")
        assert second.endswith("5 workers, 26 to 40 s left")


def test_a_terminal_s_bar_has_the_range_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(400, "bar") as shown:
        for seconds, documents in ((10.0, 120), (26.0, 80), (27.0, 10)):
            now[0] = seconds
            shown.add(documents, documents * 10, 2)
            shown._bar.refresh()
            told = capsys.readouterr().err.split("\r")[-1]
    assert "210/400" in told
    # By the rate since the start, and by that of the last ten seconds or more.
    assert "78 tok/s, 2 workers, 24 to 38 s left" in told
