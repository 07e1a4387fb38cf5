"""Counts in which way runs do their work: by what changed alone, or in full. Every result is that of both ways.

A way that always gave up would break nothing, so that the storms have to say how often each was gone.
"""

from collections.abc import Callable
from typing import Any

from indexer.indexing import changes
from indexer.publishing import identity
from indexer.storage import commits
from tests.support import both_ways

BY_CHANGES = ("compared by changes", "summed by changes", "dropped by index")
"""What must happen in a storm."""

GIVEN_UP: dict[str, tuple[Any, str]] = {
    "compared": (changes, "_of_changed_files"),
    "summed": (identity, "_updated"),
}
"""What gives nothing where it cannot tell by changes alone."""


def install(note: Callable[[str], None]) -> None:
    """Lets every run of this process say what it did in which way, also on tables of a few rows. Once per process.

    Args:
        note: Takes what was done, one of :data:`BY_CHANGES` or the same ``in full``.
    """
    place: Any = commits
    both_ways.install()
    place.LOOKED_UP = 1
    for name, (module, attribute) in GIVEN_UP.items():
        setattr(module, attribute, _noted(name, getattr(module, attribute), note))
    addresses, looked_up = place._addresses, place.looked_up
    found: list[bool] = []

    def by_index(*arguments: Any, **named: Any) -> Any:
        found.append(True)
        return looked_up(*arguments, **named)

    def counted(*arguments: Any) -> Any:
        found.clear()
        result = addresses(*arguments)
        note("dropped by index" if found else "dropped in full")
        return result

    place.looked_up, place._addresses = by_index, counted


def _noted(name: str, real: Callable[..., Any], note: Callable[[str], None]) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        result = real(*arguments)
        note(f"{name} in full" if result is None else f"{name} by changes")
        return result

    return noted
