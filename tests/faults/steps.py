"""Durable steps of a run, a rollback or a prune, and what a tester makes happen at one of them.

Whatever writes goes through a few functions of obstore and Lance. These are wrapped once per process, below the package
that is tested, so that a step stays a step however the package is arranged.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lance
import lance.fragment
import obstore
from lance.dataset import DatasetOptimizer, Tags

STEPS: list[tuple[Any, str]] = [
    (obstore, "put"),
    (obstore, "delete"),
    (os, "link"),
    (os, "unlink"),
    (shutil, "rmtree"),
    (lance, "write_dataset"),
    (lance.fragment, "write_fragments"),
    *((lance.LanceDataset, name) for name in ("commit", "create_scalar_index", "create_index", "drop_index")),
    *((lance.LanceDataset, name) for name in ("cleanup_old_versions", "delete", "restore")),
    *((DatasetOptimizer, name) for name in ("compact_files", "optimize_indices")),
    *((Tags, name) for name in ("create", "update", "delete")),
]


class Killed(BaseException):
    """The process would have ended here."""


class _Armed:
    """What is to happen at which step; nothing most of the time."""

    at = 0
    count = 0
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


def _stepped(real: Callable[..., Any]) -> Callable[..., Any]:
    def step(*arguments: Any, **named: Any) -> Any:
        _Armed.count += 1
        if _Armed.at != _Armed.count:
            return real(*arguments, **named)
        before, after = _Armed.before, _Armed.after
        _Armed.at = 0
        if before:
            before()
        result = real(*arguments, **named)
        if after:
            after()
        return result

    return step


def install() -> None:
    """Wraps every step, also where a module of the package imported the function by name."""
    for place, name in STEPS:
        real = getattr(place, name)
        if getattr(real, "is_step", False):
            continue
        step = _stepped(real)
        step.is_step = True  # type: ignore[attr-defined]
        static = isinstance(vars(place).get(name), staticmethod)
        setattr(place, name, staticmethod(step) if static else step)
        for module in [found for key, found in sys.modules.items() if key.startswith("indexer.")]:
            if getattr(module, name, None) is real:
                setattr(module, name, step)


@contextmanager
def at_step(
    at: int, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> Iterator[None]:
    """Within it, something happens at the ``at``-th durable step, before or after it; at most once."""
    _Armed.at, _Armed.count, _Armed.before, _Armed.after = at, 0, before, after
    try:
        yield
    finally:
        _Armed.at = 0


def kill() -> None:
    """Ends what runs, as SIGKILL would, without ending this process."""
    raise Killed


def fail() -> None:
    """What storage says when it fails, or when its answer is lost."""
    raise OSError("failed here")
