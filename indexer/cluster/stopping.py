"""The first signal asks a run to stop, the second one stops it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from indexer.progress import say


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets; the second one interrupts."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        say("stopping: shards in hand are finished first; send the signal again to stop at once")
        for number in numbers:
            signal.signal(number, signal.default_int_handler)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)
