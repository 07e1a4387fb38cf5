"""`make gpu-check` without a GPU: what it runs, what it leaves out, what it writes and when it fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import check, is_good, run_tests, write
from benchmarks.support import machine
from indexer.testing.random_weights import TRUE_SHAPES

RATES = {"start_seconds": 9.0, "50": {"tokens_per_second": 1000}}

PASSED = {"passed": True, "summary": "9 passed"}


class Here:
    """Stands in for :func:`apart`: a machine with a GPU of 40 GiB on which some functions fail."""

    def __init__(self, failing: Callable[..., Any] | None = None) -> None:
        self._failing = failing
        self.patience: list[float] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any, patience: float = 0.0) -> Any:  # noqa: ARG002
        if function is self._failing:
            raise RuntimeError("no result within 5 s")
        self.patience.append(patience)
        answers = {gpu_check.rates: RATES, gpu_check.free_gib: 40.0, gpu_check.matrix_rate: 1e12, run_tests: PASSED}
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


def test_tests_and_models_that_hang_or_fail_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = results(monkeypatch, Here(failing=run_tests))
    assert (last["tests"], is_good(last)) == ({"passed": False, "summary": "no result within 5 s"}, False)
    assert last["models"]["8B"] == RATES
    *_, last = results(monkeypatch, Here(failing=gpu_check.rates))
    assert (last["models"]["8B"], is_good(last)) == ({"failure": "no result within 5 s"}, False)


def _no_tests() -> dict[str, Any]:
    """Runs in a fresh process instead of the tests marked gpu, which have their own run here."""
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
