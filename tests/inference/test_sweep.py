"""What `--tune` and the engine benchmark try on a machine."""

from typing import Any

import pytest

from indexer.inference import sweep
from indexer.inference.sweep import GPU_SHARE, Setting, Timing


def tried(max_tokens: int, fastest: str = "") -> list[Setting]:
    """The settings of a sweep in which one argument makes engines faster."""
    start, choices = sweep.machine(max_tokens)
    return [one.setting for one in sweep.best(lambda setting: _timing(setting, fastest), start, choices)]


def _timing(setting: Setting, fastest: str) -> Timing:
    return Timing(setting, 2.0 if fastest in setting.named else 1.0, 0.0)


def values(settings: list[Setting], name: str) -> list[Any]:
    return [setting.named[name] for setting in settings if name in setting.named]


def test_on_a_gpu_everything_is_tried_that_may_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    found = tried(8192, fastest="async_scheduling")
    assert values(found, "max_num_batched_tokens") == [8192, 16384, 32768, 65536]
    assert True in values(found, "async_scheduling")
    assert {"cudagraph_mode": "NONE"} in values(found, "compilation_config")
    assert True in values(found, "enforce_eager")
    assert values(found, "packed") == ["off"]
    assert max(values(found, "max_num_seqs")) >= 1024
    shared = found[-1]
    assert (shared.replicas, shared.arguments["gpu_memory_utilization"]) == (2, GPU_SHARE / 2)
    assert shared.arguments["async_scheduling"], "what was faster stays"
    assert not any(setting.pinned for setting in found)


def test_no_step_is_smaller_than_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert min(values(tried(20_000), "max_num_batched_tokens")) == 20_000


def test_without_a_gpu_engines_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    found = tried(512)
    assert {(setting.pinned, setting.replicas) for setting in found} == {(True, 3)}
    assert values(found, "max_num_batched_tokens") == [4096, 8192, 16384]
