"""The thread of a query's engine answers everybody, whatever the engine does."""

import gc
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from indexer.errors import EngineDead, EngineError
from indexer.inference.engine import Engine
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import CONTEXT_LOST, failure_reason
from indexer.search.engine_thread import QueryEmbedder
from indexer.testing.fakes import FakeEngine

DEADLY = 7

LOST = "CUDA error: an illegal memory access was encountered"

SECONDS = 10.0


class LostEngine(FakeEngine):
    """An engine on a GPU whose context fails with it, so that it cannot be ended either."""

    def __init__(self) -> None:
        super().__init__(dies_on=DEADLY)

    def close(self) -> None:
        raise RuntimeError(f"{LOST}\nand more lines of torch's")


class Asker:
    """An embedder and the threads that ask it. They end with the process, also where no answer ever comes."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self.embedder = QueryEmbedder(start, 64)

    def ask(self, token: int) -> "Future[np.ndarray]":
        """The answer about a sequence of one token, in future."""
        answer: Future[np.ndarray] = Future()
        threading.Thread(target=self._ask, args=(token, answer), daemon=True).start()
        return answer

    def _ask(self, token: int, answer: "Future[np.ndarray]") -> None:
        try:
            answer.set_result(self.embedder.embed(TokenSequences.of([np.array([token], np.int32)])))
        except Exception as error:  # noqa: BLE001  # the test looks at it
            answer.set_exception(error)


@contextmanager
def asker(start: Callable[[], Any]) -> Iterator[Asker]:
    """Asks an engine for queries, and closes it."""
    asked = Asker(start)
    yield asked
    asked.embedder.close()


def test_an_engine_that_cannot_be_freed_leaves_nobody_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    engines: list[LostEngine] = []

    def start() -> LostEngine:
        if len(engines) == 1:
            raise EngineError("vLLM does not start")
        engines.append(LostEngine())
        return engines[-1]

    with asker(start) as asked:
        failure = asked.ask(DEADLY).exception(SECONDS)
        assert isinstance(failure, EngineDead)
        assert "died of a marked token" in str(failure)
        assert f"({LOST})" in str(failure)
        assert "start another one" in str(failure)
        assert "\n" not in str(failure)
        assert isinstance(asked.ask(1).exception(SECONDS), EngineError)
        engines.append(LostEngine())
        assert asked.ask(1).result(SECONDS).shape == (1, 64)
    assert "could not be freed" in capsys.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name == "query-engine"]


def test_all_that_were_asked_together_hear_of_an_engine_that_cannot_be_freed() -> None:
    works, goes = threading.Event(), threading.Event()

    class Waiting(LostEngine):
        def embed(self, sequences: TokenSequences) -> np.ndarray:
            works.set()
            assert goes.wait(SECONDS)
            return super().embed(sequences)

    with asker(Waiting) as asked:
        first = asked.ask(1)
        assert works.wait(SECONDS)
        together = [asked.ask(token) for token in (2, DEADLY, 3)]
        while len(asked.embedder._work._requests) < len(together):
            time.sleep(0.01)
        goes.set()
        assert first.exception(SECONDS) is None
        for answer in together:
            assert "could not be freed" in str(answer.exception(SECONDS))


class HeldEngine(FakeEngine):
    """An engine whose failed call has weights in its frames."""

    def __init__(self) -> None:
        super().__init__(dies_on=DEADLY)
        self.weights = Weights()

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        held = self.weights
        found = super().embed(sequences)
        assert held
        return found


class Weights:
    """What an engine has on a GPU."""


@pytest.mark.parametrize("together", [1, 3])
def test_a_dead_engine_is_gone_before_another_starts(together: int) -> None:
    living: list[weakref.ref[Weights]] = []
    left: list[int] = []

    def start() -> HeldEngine:
        gc.collect()  # as before an engine's share of a GPU is reckoned
        left.append(sum(one() is not None for one in living))
        engine = HeldEngine()
        living.append(weakref.ref(engine.weights))
        return engine

    with asker(start) as asked:
        asked.ask(1).result(SECONDS)
        batch = [asked.ask(DEADLY) for _ in range(together)]
        failures = [answer.exception(SECONDS) for answer in batch]  # the errors are kept, as a caller may
        asked.ask(1).result(SECONDS)
        assert all(isinstance(failure, EngineDead) for failure in failures)
    assert len(left) >= 2
    assert not any(left)


def test_the_error_of_a_dead_engine_keeps_its_lines_and_not_what_the_step_had() -> None:
    class Loop:
        def run(self, *_: Any) -> np.ndarray:
            weights = Weights()
            living.append(weakref.ref(weights))
            raise RuntimeError(LOST)

    living: list[weakref.ref[Weights]] = []
    engine = Engine.__new__(Engine)
    engine.max_tokens, engine._width, engine._broken, engine._packed = 8, 64, False, None
    engine._loop = Loop()  # type: ignore[assignment]
    with pytest.raises(EngineDead, match="illegal memory access") as failed:
        engine.embed(TokenSequences.of([np.array([1], np.int32)]))
    assert living[0]() is None
    cause = failed.value.__cause__
    assert cause is not None
    assert "raise RuntimeError(LOST)" in "".join(traceback.format_exception(cause))


def test_an_error_of_cuda_says_what_may_help() -> None:
    assert CONTEXT_LOST in failure_reason(RuntimeError(LOST))
    assert CONTEXT_LOST not in failure_reason(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
