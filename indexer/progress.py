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

    A log gets the time and the level before the line; a terminal does not.
    """
    known = "" if sys.stderr.isatty() else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {level} "
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
        self._documents = self._tokens = self._said = 0
        self._start = self._last_line = time.monotonic()
        from tqdm import tqdm  # noqa: PLC0415  # a command that lacks a package can say so without this one

        self._bar = tqdm(total=total, unit=unit, disable=self._style != "bar", dynamic_ncols=True)

    def __enter__(self) -> Self:
        """Starts the clock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the bar, or prints the last line."""
        self._bar.close()
        if kind is None and self._style == "lines" and self._documents:
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
        self._bar.update(documents)
        self._bar.set_postfix_str(f"{self._rate():,.0f} tok/s, {self._workers} workers", refresh=False)
        if self._style == "lines" and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line()

    def _rate(self) -> float:
        """Tokens per second since the start."""
        return self._tokens / max(time.monotonic() - self._start, 1e-9)

    def _print_line(self) -> None:
        """Prints one plain line of progress."""
        now = time.monotonic()
        # The rate since the start and the one since the last line bound the time that is left: shards differ in length.
        spans = [(now - self._start, self._documents), (now - self._last_line, self._documents - self._said)]
        left = sorted(seconds / done * (self._total - self._documents) for seconds, done in spans if done)
        self._last_line, self._said = now, self._documents
        share = self._documents / max(self._total, 1)
        say(
            f"{self._documents:,}/{self._total:,} {self._unit} ({share:.0%}), {self._rate():,.0f} tokens/s, "
            f"{self._workers} workers, {_range(left)} s left"
        )


def _range(bounds: Sequence[float]) -> str:
    """The least and the largest of some numbers, as one where they are equal to the second."""
    return " to ".join(dict.fromkeys(f"{bound:,.0f}" for bound in (min(bounds, default=0.0), max(bounds, default=0.0))))


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
