"""A deadline that holds even where Python itself is stuck: the process ends."""

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends the process where the block takes longer.

    A thread of the interpreter's own watches, without its lock: a call that never returns cannot hold it up. It prints
    where every thread stands, lines of code only, and ends the process with status 1.

    Args:
        seconds: Time allowed. One block at a time in a process.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
