"""Searches in parallel threads, with a bound on threads and on results that wait."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

THREADS = 2
"""Searches at once per core: while one waits for a disk or for Python, another computes."""

MOST_THREADS = 32

AHEAD = 4
"""Results per thread that may wait until they are taken."""

ResultT = TypeVar("ResultT")


def in_threads(answer: Callable[..., ResultT], *columns: Sequence[Any] | np.ndarray) -> Iterator[ResultT]:
    """Applies a function to the rows of some columns, in threads.

    Args:
        answer: The function, with an argument per column.
        columns: Its arguments, columns of equal length.

    Yields:
        The results, in the order of the rows.
    """
    rows = list(zip(*columns, strict=True))
    if len(rows) <= 1:
        yield from (answer(*row) for row in rows)
        return
    threads = min(len(rows), MOST_THREADS, THREADS * len(os.sched_getaffinity(0)))
    waiting: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(threads, "search") as pool:
        try:
            for row in rows:
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(answer, *row))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the caller was interrupted, or a search failed
                future.cancel()
