"""A deadline that ends the process, even if Python itself is stuck."""

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends the process if the block takes longer.

    A watchdog thread of the interpreter runs without its lock, so that a call that never returns cannot block it. It
    prints every thread's stack, lines of code only, and ends the process with status 1.

    Args:
        seconds: Time allowed. One block at a time in a process.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
