"""Lines of those who wait for an engine."""

import time
from contextlib import suppress

import pytest

from indexer import steps
from indexer.steps import WaitingLines, current_step, step, told_steps


def test_the_innermost_step_is_told() -> None:
    with step("starting"):
        with suppress(ValueError), step("loading"):
            assert current_step() == "loading"
            raise ValueError
        assert current_step() == "starting"
    assert not current_step()


def test_steps_of_threads_end_in_any_order() -> None:
    """Two engines of a process wait for one another."""
    waiting, loading = step("waiting"), step("loading")
    for one in (waiting, loading):
        one.__enter__()
    waiting.__exit__(None, None, None)
    assert current_step() == "loading"
    loading.__exit__(None, None, None)
    assert not current_step()


def test_a_line_comes_after_a_while_and_then_with_news(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines = WaitingLines(_began=now)
    said = {}
    for at, what in [(109, "a"), (110, "a"), (125, "a"), (126, "b"), (135, "c"), (136, "c"), (150, ""), (196, "c")]:
        now = float(at)
        lines.tell(what)
        said[at] = [line.split(" INFO ")[-1] for line in capsys.readouterr().err.splitlines()]
    assert said == {
        109: [], 110: ["a (10 s so far)"], 125: [], 126: ["b (26 s so far)"], 135: [], 136: ["c (36 s so far)"],
        150: [], 196: ["c (96 s so far)"],
    }  # fmt: skip


def test_a_command_that_starts_an_engine_tells_its_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(steps, "LOOK_SECONDS", 0.01)
    with told_steps("the engine"), step("importing vLLM"):
        time.sleep(0.3)
    assert capsys.readouterr().err.count("starting the engine: importing vLLM (0 s so far)") == 1
