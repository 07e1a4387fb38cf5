"""`make gpu-check` without a GPU: what it runs, what it leaves out, what it writes and when it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import check, is_good, run_tests, write
from benchmarks.support import machine, outcomes
from indexer.testing.random_weights import TRUE_SHAPES

RATES = {"start_seconds": 9.0, "50": {"tokens_per_second": 1000}}

PASSED = {"passed": True, "summary": "2 passed"}

NAMES = ["test_gpu.py::test_one", "test_gpu.py::test_two"]


class Here:
    """Stands in for :func:`apart`: a machine with a GPU of 40 GiB on which some functions fail."""

    def __init__(self, failing: Callable[..., Any] | None = None, outcome: str = "passed") -> None:
        self._failing, self._outcome = failing, outcome
        self.patience: list[float] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any, patience: float = 0.0) -> Any:
        if function is run_tests:
            lines = [json.dumps([name, outcomes.UNENDED]) for name in NAMES]
            lines += [json.dumps([NAMES[0], "passed"]), json.dumps([NAMES[1], self._outcome])]
            Path(arguments[0]).write_text("\n".join(lines))
        if function is gpu_check.rates and self._failing is gpu_check.rates:
            Path(arguments[-1], gpu_check.FIGURES).write_text(json.dumps({"50": RATES["50"]}))
        if function is self._failing:
            raise RuntimeError("no result within 5 s")
        self.patience.append(patience)
        answers = {gpu_check.rates: RATES, gpu_check.gpu_limits: (40.0, 1e12), run_tests: PASSED}
        return answers[function] if function in answers else function()


def results(patch: pytest.MonkeyPatch, here: Here, **given: Any) -> list[dict[str, Any]]:
    patch.setattr(gpu_check, "apart", here)
    return [json.loads(json.dumps(result)) for result in check(**({"dry_run": False} | given))]


def test_every_result_is_there_as_soon_as_it_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = Here()
    found = results(monkeypatch, here)
    assert [list(result["models"]) for result in found] == [list(TRUE_SHAPES)[:count] for count in range(4)]
    assert is_good(found[-1])
    assert not is_good(found[0]), "no model is measured yet"
    assert 0 < here.patience[-1] < gpu_check.TOTAL_SECONDS, "a model that hangs ends with the ten minutes"
    for result in found:
        file = write(tmp_path, result | {"machine": {"gpu": "NVIDIA H200 NVL"}})
        assert json.loads(file.read_text(encoding="utf-8"))["models"] == result["models"]
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-nvidia-h200-nvl.json"]


def test_a_model_for_which_no_time_is_left_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = results(monkeypatch, Here(), seconds=gpu_check.SECONDS_NEEDED["4B"] + 5)
    assert last["models"]["0.6B"] == last["models"]["4B"] == RATES
    assert "s are left, it needs" in last["models"]["8B"]["skipped"]
    *_, none = results(monkeypatch, Here(), seconds=1)
    assert not is_good(none)


def test_tests_that_hang_are_said_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = results(monkeypatch, Here(failing=run_tests, outcome=outcomes.UNENDED))
    became = {"passed": NAMES[:1], "unended": NAMES[1:]}
    assert last["tests"] == {"passed": False, "summary": "no result within 5 s", "outcomes": became}
    assert not is_good(last)
    assert last["models"]["8B"] == RATES


@pytest.mark.parametrize("outcome", ["failed", outcomes.UNENDED])
def test_only_tests_that_ended_and_passed_are_good(outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = results(monkeypatch, Here(outcome=outcome))
    assert last["tests"]["outcomes"] == {"passed": NAMES[:1], outcome: NAMES[1:]}
    assert not is_good(last)
    *_, last = results(monkeypatch, Here(outcome="skipped"))
    assert is_good(last)


def test_a_model_that_is_cut_off_keeps_the_lengths_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = results(monkeypatch, Here(failing=gpu_check.rates))
    assert last["models"]["8B"] == {"50": RATES["50"], "failure": "no result within 5 s"}
    assert not is_good(last)


def test_a_fast_machine_has_time_for_every_model() -> None:
    """Of a run in which the tests take all of their time, and the models what they took on an H100."""
    left = gpu_check.TOTAL_SECONDS - gpu_check.TESTS_SECONDS - 30
    for size, seconds in {"0.6B": 80, "4B": 95, "8B": 95}.items():
        assert left >= max(seconds, gpu_check.SECONDS_NEEDED[size])
        left -= seconds


TESTS = """
import time, pytest

def test_passes(): pass

def test_fails():
    assert "a reason" == "another"

@pytest.mark.skip
def test_is_skipped(): pass

@pytest.fixture
def broken():
    yield
    raise ValueError("at the end")

def test_ends_badly(broken): pass

def test_hangs(): time.sleep(600)
"""


def test_a_killed_run_has_told_its_failures_and_what_became_of_every_test(tmp_path: Path) -> None:
    file, noted, said = tmp_path / "test_some.py", tmp_path / "noted", tmp_path / "said"
    file.write_text(TESTS)
    command = [sys.executable, "-m", "pytest", str(file), "-p", outcomes.__name__, "-p", "no:cacheprovider"]
    command += ["--numprocesses", "2", "--dist", "load", "--rootdir", str(tmp_path)]
    with said.open("w") as stream:
        run = subprocess.Popen(
            command, env=os.environ | {outcomes.FILE: str(noted)}, stdout=stream, start_new_session=True
        )
    until = time.monotonic() + 100
    while len(found := outcomes.read(noted)) < 4 or len(found["failed"]) < 2 or len(found["unended"]) > 1:
        assert time.monotonic() < until, said.read_text()
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    names = {outcome: sorted(name.split("::")[1] for name in names) for outcome, names in found.items()}
    assert names == {
        "passed": ["test_passes"],
        "failed": ["test_ends_badly", "test_fails"],
        "skipped": ["test_is_skipped"],
        "unended": ["test_hangs"],
    }
    for reason in ("assert 'a reason' == 'another'", "ValueError: at the end"):
        assert reason in said.read_text()


def _no_tests(noted: str, seconds: float) -> dict[str, Any]:  # noqa: ARG001
    """Runs in a fresh process instead of the tests marked gpu, which have their own run here."""
    Path(noted).write_text(json.dumps([NAMES[0], "passed"]))
    return PASSED


@pytest.mark.slow
def test_a_dry_run_measures_a_small_model_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "run_tests", _no_tests)
    *_, last = check(dry_run=True)
    assert is_good(last)
    assert last["machine"]["versions"] == machine.describe()["versions"]
    for length in gpu_check.LENGTHS:
        for way in ("loop", "packed"):
            figures = last["models"]["small"][str(length)][way]
            assert figures["tokens_per_second"] > 0
            assert figures["host_share"] > 0
            assert 0 < figures["mfu"] <= 1
