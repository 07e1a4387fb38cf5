"""Durable steps of a run, and what a driver does at one of them: it fails, dies, or stops for a while."""

import os
import signal
from collections.abc import Callable
from typing import Any

from indexer.storage import commits, tables, vector_index
from indexer.storage.control import ControlStore
from indexer.storage.receipts import Receipts

POINTS: dict[str, tuple[Any, str]] = {
    "stage": (tables, "stage"),
    "receipt": (Receipts, "put"),
    "removals": (ControlStore, "put_removals"),
    "intent": (ControlStore, "put_intent"),
    "commit": (commits, "commit"),
    "maintain": (vector_index, "maintain"),
    "epoch": (ControlStore, "put_epoch"),
}
"""The durable steps of a run, in their order."""


def _nothing() -> None:
    pass


def _signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _fail() -> None:
    raise OSError("failed here")


BEFORE = {"kill_before": _signal(signal.SIGKILL), "exception": _fail, "pause": _signal(signal.SIGSTOP)}

AFTER = {"kill_after": _signal(signal.SIGKILL), "lost_reply": _fail}

ACTIONS = (*BEFORE, *AFTER)


def failpoint(point: str, action: str, call: int) -> Callable[[], None]:
    """Makes a driver do something at the ``call``-th time it comes to a durable step."""

    def prepare() -> None:
        place, name = POINTS[point]
        real = getattr(place, name)
        calls = 0

        def stepped(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != call:
                return real(*arguments, **named)
            BEFORE.get(action, _nothing)()
            result = real(*arguments, **named)
            AFTER.get(action, _nothing)()
            return result

        setattr(place, name, stepped)

    return prepare
