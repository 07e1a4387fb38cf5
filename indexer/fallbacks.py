"""Slower ways that this process takes, with the reasons: its operator sees them, and so does who started it."""

from indexer.progress import say

_taken: dict[str, None] = {}


def take(way: str) -> None:
    """Notes a slower way and tells the operator; the same one is told once.

    Args:
        way: What is slower and why, on one line.
    """
    if way not in _taken:
        _taken[way] = None
        say(way, "WARNING")


def taken() -> list[str]:
    """The slower ways of this process so far."""
    return list(_taken)
