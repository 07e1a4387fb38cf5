"""Engines start one after the other on a GPU, and at once where there is none. Those of one Ray count each other."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from indexer.cluster.worker import TOKENIZER_THREADS, Started, Worker, _take_seat


class Instant:
    """A pipeline that is ready."""

    compile_seconds = 0.0

    def run(self, piece: object) -> NoReturn:
        """Nobody asks for work."""
        raise AssertionError(piece)


def started_together(seconds: float) -> list[Started]:
    """Starts two workers, whose engines wait for each other at most so long."""
    both = threading.Barrier(2)

    def engine() -> Any:
        both.wait(seconds)
        return Instant()

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda worker: worker.start(engine), [Worker(0, threads=1), Worker(0, threads=1)]))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOKENIZER_THREADS:
        monkeypatch.setenv(name, "1")


@pytest.mark.parametrize("gpus", [None, ""])
def test_engines_without_a_gpu_start_at_once(gpus: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if gpus is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert [started.compile_seconds for started in started_together(10.0)] == [0.0, 0.0]


def test_engines_of_one_gpu_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "99")
    with pytest.raises(threading.BrokenBarrierError):
        started_together(0.5)


def test_a_replica_that_starts_again_counts_siblings_in_later_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (first, none), (second, one), (third, two) = (_take_seat("gpu-0") for _ in range(3))
    assert (none, one, two) == (0, 1, 2)
    first.close()  # as the system does when its process ends
    again, others = _take_seat("gpu-0")
    assert Path(again.name).name == "gpu-0-0"
    assert others == 2
    again.close()
    second.close()
    again, others = _take_seat("gpu-0")
    assert others == 1, "what nobody holds is no sibling"
    Path(third.name).write_text("1", encoding="utf-8")
    _, others = _take_seat("gpu-0")
    assert others == 1, "the third is of another Ray"
    _, others = _take_seat("gpu-00")
    assert others == 0, "another GPU"
