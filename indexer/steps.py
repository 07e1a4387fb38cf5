"""What a process that starts an engine is doing now, for those who wait for it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from indexer.progress import say

QUIET_SECONDS = 10.0
"""How long a wait lasts before its first line, and the shortest time between two lines."""

LOOK_SECONDS = 1.0
"""Between two looks at what a start is doing."""

SAME_SECONDS = 60.0
"""Time between two lines that say the same."""

_now: list[str] = []
"""Names of the steps that have begun and not ended, in this order."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Names what this process does in the block; threads may have steps at once.

    Args:
        name: What it does, as in "loading the weights".
    """
    _now.append(name)
    try:
        yield
    finally:
        _now.remove(name)


def current_step() -> str:
    """The step that this process has begun last and not ended; empty if it is in none."""
    return "".join(_now[-1:])  # a slice, since another thread may end the last step


@dataclass
class WaitingLines:
    """Progress lines of a wait: the first after ten seconds, later ones when they say something new, or each minute."""

    _began: float = field(default_factory=time.monotonic)
    _last: str = ""
    _said: float = 0.0

    def tell(self, what: str) -> None:
        """Prints a line if it is time for one.

        Args:
            what: What is waited for; empty if nothing is.
        """
        now = time.monotonic()
        is_due = now - max(self._began, self._said) >= QUIET_SECONDS
        if what and is_due and (what != self._last or now - self._said >= SAME_SECONDS):
            self._last, self._said = what, now
            say(f"{what} ({now - self._began:.0f} s so far)")


@contextmanager
def told_steps(who: str) -> Iterator[None]:
    """Prints the steps of this process while the block lasts.

    Args:
        who: What the block starts, as in "the engine".
    """
    ended = threading.Event()
    lines = WaitingLines()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            lines.tell(f"starting {who}: {now}" if (now := current_step()) else "")

    threading.Thread(target=watch, name="steps", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
