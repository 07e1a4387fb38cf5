"""What the engines of one process share: vLLM keeps the state of a step and its device groups in globals."""

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLMEngine

ONE_AT_A_TIME = threading.RLock()
"""Held while an engine starts, runs or ends."""

_living: "weakref.WeakKeyDictionary[LLMEngine, Callable[[], Any]]" = weakref.WeakKeyDictionary()
"""Engines that have started and not ended, each with what ends it."""


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Keeps what exists after the block, which imports vLLM, out of the collections of an engine's start."""
    # A full collection walks all that 6,000 modules made and frees none of it. Python makes several during the import,
    # vLLM makes half a dozen during a start and freezes everything afterwards, until the engine ends.
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


@contextmanager
def store_in_memory() -> Iterator[None]:
    """The store of a device group that starts in the block is in memory: our engines are one process each."""
    # vLLM's is a file in the temporary folder. Workers are killed, and nobody would remove it.
    from torch import distributed

    kind = distributed.FileStore
    distributed.FileStore = lambda *_: distributed.HashStore()
    try:
        yield
    finally:
        distributed.FileStore = kind


def compiled_seconds() -> float:
    """Seconds that torch has compiled in this process so far."""
    utils = sys.modules.get("torch._dynamo.utils")
    return float(utils.calculate_time_spent().get("inductor_compile", 0.0)) if utils else 0.0


def started(engine: "LLMEngine") -> None:
    """Notes an engine of this process, which ends with :func:`end` or when nobody refers to it any more."""
    client = engine.engine_core
    core = getattr(client, "engine_core", None)
    if core is None:  # vLLM's core has a process of its own
        _living[engine] = client.shutdown
        return
    # vLLM's own finalizer also destroys the process's device groups, without which other engines here cannot run.
    if (theirs := getattr(client, "_finalizer", None)) is not None:
        theirs.detach()
    _living[engine] = weakref.finalize(client, _end, weakref.ref(engine), core)


def living() -> int:
    """Engines of this process that have started and not ended."""
    return len(list(_living))  # the dictionary's own length may count an engine that is just gone


def end(engine: "LLMEngine") -> None:
    """Frees what an engine holds, once."""
    with ONE_AT_A_TIME:
        if (finish := _living.pop(engine, None)) is not None:
            finish()


def _end(ended: "weakref.ref[LLMEngine]", core: Any) -> None:
    """Frees what the core of an engine holds. Only the last one shuts down; the others give up their workers."""
    with ONE_AT_A_TIME:
        if (engine := ended()) is not None:
            _living.pop(engine, None)
        if living():
            core.model_executor.shutdown()
            gc.collect()
        else:
            core.shutdown()  # collects garbage itself
