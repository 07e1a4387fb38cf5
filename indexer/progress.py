"""Progress of a run on standard error: a bar on a terminal, plain lines in a job log."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Self

# Control characters, separators of lines and paragraphs, marks of direction (Unicode TR 36). Halves of surrogate pairs
# too: they stand for the bytes of file names that are not UTF-8.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

LINE_SECONDS = 10.0
"""Shortest time between two plain lines."""


Level = Literal["INFO", "WARNING", "ERROR"]


def say(line: str, level: Level = "INFO") -> None:
    """Tells the operator something on standard error; standard output is for results.

    A log gets the time and the level before the line. A terminal does not, and an error's line is plain in both: it is
    what a command ends with.
    """
    known = "" if level == "ERROR" or sys.stderr.isatty() else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {level} "
    print(f"{known}{printable(line)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text that is safe for a terminal: characters that move its cursor or turn its direction are escaped.

    Ids, payload and file names come from other people. Tabs and line ends are escaped too. Letters of every script,
    emoji and their joiners stay.
    """
    return UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class Progress:
    """Documents done of a known total, with tokens per second and the time left."""

    def __init__(self, total: int, style: Literal["auto", "bar", "lines", "none"], unit: str = "documents") -> None:
        """Describes the work.

        Args:
            total: Documents to index, or other units.
            style: ``auto`` is a bar if standard error is a terminal, otherwise lines.
            unit: What is counted.
        """
        self._total, self._unit, self._workers = total, unit, 0
        self._style = ("bar" if sys.stderr.isatty() else "lines") if style == "auto" else style
        self._documents = self._tokens = self._counted = 0
        self._start = self._looked = time.monotonic()
        self._recent: float | None = None
        from tqdm import tqdm  # noqa: PLC0415  # a command that lacks a package can say so without this one

        # The bar's own time left is one number: ours, a range, stands in its place.
        bar = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
        self._bar = tqdm(total=total, unit=unit, disable=self._style != "bar", dynamic_ncols=True, bar_format=bar)

    def __enter__(self) -> Self:
        """Starts the clock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the bar, or prints the last line."""
        self._bar.close()
        if kind is None and self._style == "lines" and self._documents:
            self._look()
            self._print_line()

    def add(self, documents: int, tokens: int, workers: int) -> None:
        """Counts work that is durable.

        Args:
            documents: Documents of a shard, indexed or quarantined.
            tokens: Tokens the engine read for them.
            workers: Engines at work now; they come and go.
        """
        self._documents += documents
        self._tokens += tokens
        self._workers = workers
        is_due = time.monotonic() - self._looked >= LINE_SECONDS
        if is_due:
            self._look()
        told = f"{self._rate():,.0f} tok/s, {self._workers} workers, {self._left()} left"
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update(documents)
        if is_due and self._style == "lines":
            self._print_line()

    def _rate(self) -> float:
        """Tokens per second since the start."""
        return self._tokens / max(time.monotonic() - self._start, 1e-9)

    def _look(self) -> None:
        """Measures the seconds of a document since the last look."""
        now = time.monotonic()
        done = self._documents - self._counted
        self._recent = (now - self._looked) / done if done else None
        self._looked, self._counted = now, self._documents

    def _left(self) -> str:
        """The time left, by the rate since the start and by that of late: shards differ in length."""
        paces = [(time.monotonic() - self._start) / max(self._documents, 1)]
        paces += [self._recent] if self._recent is not None else []
        return f"{as_range([pace * (self._total - self._documents) for pace in paces])} s"

    def _print_line(self) -> None:
        """Prints one plain line of progress."""
        share = self._documents / max(self._total, 1)
        say(
            f"{self._documents:,}/{self._total:,} {self._unit} ({share:.0%}), {self._rate():,.0f} tokens/s, "
            f"{self._workers} workers, {self._left()} left"
        )


def as_range(numbers: Sequence[float]) -> str:
    """The least and the largest of some numbers in words, as one where they are equal once they are rounded."""
    return " to ".join(dict.fromkeys(f"{number:,.0f}" for number in (min(numbers), max(numbers))))


@dataclass
class Stopwatch:
    """Seconds spent per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
