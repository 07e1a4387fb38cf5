"""What the engines of one process share: vLLM keeps the state of a step and its device groups in globals."""

import gc
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm import LLMEngine

ONE_AT_A_TIME = threading.RLock()
"""Held while an engine starts, runs or ends."""

_living: "weakref.WeakSet[LLMEngine]" = weakref.WeakSet()


def started(engine: "LLMEngine") -> None:
    """Notes an engine of this process."""
    _living.add(engine)


def end(engine: "LLMEngine") -> None:
    """Frees what an engine holds.

    vLLM's own shutdown also destroys the process's device groups, without which other engines here cannot run. So only
    the last one shuts down; the others give up their workers.
    """
    with ONE_AT_A_TIME:
        _living.discard(engine)
        client = engine.engine_core
        finalizer = getattr(client, "_finalizer", None)
        if not _living:
            client.shutdown()
        elif finalizer is not None:
            finalizer.detach()
            client.engine_core.model_executor.shutdown()
        gc.collect()
