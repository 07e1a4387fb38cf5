"""Engines that this run's other processes have on this process's GPU, as who places the processes tells it."""

_others = 0


def note(others: int) -> None:
    """Notes how many engines started on this process's GPU before its own, before that one starts.

    Args:
        others: Engines of other processes that share the GPU by the same settings.
    """
    global _others  # noqa: PLW0603  # a process has one GPU
    _others = others


def noted() -> int:
    """What :func:`note` was told; 0 in a process that nobody placed beside others."""
    return _others
