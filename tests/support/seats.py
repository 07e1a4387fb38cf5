"""Engines of tests of the pool: each tells where it is.

A worker imports this file and nothing of a test's, so that dozens of them start soon.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import ray

from indexer import fallbacks, gpu_siblings
from indexer.cluster.pipeline import Pipeline
from indexer.errors import IndexerError
from indexer.progress import Stopwatch
from indexer.steps import step


@dataclass(frozen=True)
class Number:
    """A piece of work."""

    value: int
    size: int = 1

    @property
    def shard_id(self) -> str:
        """Its name."""
        return str(self.value)

    def halves(self) -> tuple["Number", ...]:
        """None."""
        return ()


@dataclass(frozen=True)
class Seat:
    """Where an engine is.

    Attributes:
        gpu: Its GPU.
        before: Engines that were there before.
        cache: Where it keeps what it compiles.
        threads: Threads that tokenise, by variable.
    """

    gpu: str
    before: int
    cache: str
    threads: dict[str, str]


class WhereAmI(Pipeline[Number, Seat, list[Seat], tuple[int, Seat]]):
    """Gives the seat of its worker."""

    def _read(self, piece: Number, watch: Stopwatch) -> list[Seat]:  # noqa: ARG002
        return []

    def _compute(self, held: list[Seat], watch: Stopwatch) -> None:  # noqa: ARG002
        held.append(self._engine)

    def _store(self, piece: Number, held: list[Seat], watch: Stopwatch) -> tuple[int, Seat]:  # noqa: ARG002
        return piece.value, held[0]


@dataclass(frozen=True)
class Starts:
    """The starts of all engines of a pool.

    Attributes:
        folder: Where they are counted.
        broken: Starts that fail, by number, and with what.
        gated: Starts that wait for the file ``open``.
        slower: A slower way that each takes.
    """

    folder: Path
    broken: dict[int, type[IndexerError]] = field(default_factory=dict)
    gated: frozenset[int] = frozenset()
    slower: str = ""

    def __call__(self) -> WhereAmI:
        """The next start of an engine."""
        number = next(n for n in range(99) if _first(self.folder / str(n)))
        if number in self.broken:
            raise self.broken[number](f"no memory for start {number}")
        with step("held up by a test"):
            while number in self.gated and not (self.folder / "open").exists():
                time.sleep(0.05)
        if self.slower:
            fallbacks.take(self.slower)
        return WhereAmI(_seat)


@ray.remote(num_cpus=1)
class Tenant:
    """Holds GPUs that others want."""

    def hello(self) -> None:
        """Ends when it has its place."""


def _seat() -> Seat:
    """The seat of this process."""
    given = os.environ.get
    threads = {name: given(name, "") for name in ("RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS")}
    return Seat(given("CUDA_VISIBLE_DEVICES", ""), gpu_siblings.noted(), given("VLLM_CACHE_ROOT", ""), threads)


def _first(path: Path) -> bool:
    """Whether this is the first to make a file."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
