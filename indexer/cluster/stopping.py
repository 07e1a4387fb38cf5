"""Signals: the first one ends a run after the pieces in hand, the second one ends it at once."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from indexer.progress import say

SAME_SECONDS = 0.2
"""A signal so soon after the first one is the same request: `timeout` signals its child, then the group."""


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; the second one interrupts."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    first = 0.0

    def ask(*_: object) -> None:
        nonlocal first
        if not asked.is_set():
            first = time.monotonic()
            asked.set()
            say("stopping: shards in hand are finished first; send the signal again to stop at once")
        elif time.monotonic() - first > SAME_SECONDS:
            raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)
