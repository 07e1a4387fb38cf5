"""The worker actor: one process with one engine, pinned to its cores."""

import fcntl
import itertools
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from indexer import fallbacks, gpu_siblings
from indexer.cluster.pipeline import Piece, Pipeline
from indexer.errors import EngineDead, IndexerError
from indexer.steps import current_step, step

PROCESS_ENDED = 70
"""Exit status of a worker process whose engine died (``EX_SOFTWARE`` of sysexits.h)."""

TOKENIZER_THREADS = ("RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS")
"""Variables that limit the threads of tokenizers and of fastokens."""

MakePipeline = Callable[[], Pipeline[Any, Any, Any, Any]]


class Started(NamedTuple):
    """What a worker tells of its engine's start.

    Attributes:
        fallbacks: Slower ways that it takes, with the reasons.
        compile_seconds: Seconds that it compiled the model.
    """

    fallbacks: list[str]
    compile_seconds: float


class Worker:
    """Actor: one process, one engine, one pipeline."""

    _pipeline: Pipeline[Any, Any, Any, Any]

    def __init__(self, cores: int, threads: int = 0) -> None:
        """Pins the process, or limits its threads.

        Args:
            cores: Cores to pin to; 0 on GPU machines, where the engine waits for the device and not for a core.
            threads: Threads that tokenise where nothing is pinned.
        """
        if not cores:
            # The tokenizers take a thread per core of the machine, and so would every worker. Read at their first use.
            for name in TOKENIZER_THREADS:
                os.environ.setdefault(name, str(threads))
        logging.getLogger("vllm").setLevel(logging.ERROR)
        self._claims = _pin(cores) if cores else []

    def where(self) -> str:
        """This machine and its GPU, for messages."""
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        return socket.gethostname() + (f", GPU {gpu}" if gpu else "")

    def start(self, make_pipeline: MakePipeline) -> Started:
        """Starts the engine, one at a time per GPU: vLLM sizes its memory by the memory free at its start."""
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        if gpu and not self._claims:
            with _turn(f"gpu-{gpu}"):
                seat, others = _take_seat(f"gpu-{gpu}")
                self._claims.append(seat)
                gpu_siblings.note(others)
                self._pipeline = make_pipeline()
        else:
            self._pipeline = make_pipeline()
        return Started(fallbacks.taken(), self._pipeline.compile_seconds)

    def step(self) -> str:
        """What the start of the engine is doing."""
        return current_step()

    def run(self, piece: Piece) -> Any:
        """Takes a piece of work to its receipt. Ends the process if the engine is dead, so that nothing hangs."""
        try:
            return self._pipeline.run(piece)
        except EngineDead:
            os._exit(PROCESS_ENDED)


def _pin(count: int) -> list[IO[str]]:
    """Pins this process to ``count`` cores that no other worker of this machine holds.

    Returns:
        The claims, held until the process ends; fewer than ``count`` when the machine has no more cores.
    """
    claims: dict[int, IO[str]] = {}
    for core in sorted(os.sched_getaffinity(0)):
        if len(claims) < count and (claim := _claim(f"core-{core}", wait=False)) is not None:
            claims[core] = claim
    if claims:
        os.sched_setaffinity(0, claims.keys())
    return list(claims.values())


@contextmanager
def _turn(name: str) -> Iterator[None]:
    """Holds a claim during the block, waiting for it first."""
    with step("waiting until another engine on its GPU has started"):
        claim = _claim(name, wait=True)
    try:
        yield
    finally:
        if claim is not None:
            claim.close()


def _take_seat(gpu: str) -> tuple[IO[str], int]:
    """Claims a place for an engine on a GPU; whose turn it is calls it.

    Returns:
        The claim, held until the process ends, and how many other workers of the same Ray hold a place there.
    """
    ours = str(os.getppid())  # a machine's workers are started by one process of its Ray
    seat: IO[str] | None = None
    others = 0
    for number in itertools.count():
        name = f"{gpu}-{number}"
        if seat is not None and not (_claims_folder() / name).exists():
            return seat, others
        # A replica that was restarted takes the first free place, and siblings may hold later ones.
        if (claim := _claim(name, wait=False)) is None:
            others += (_claims_folder() / name).read_text(encoding="utf-8") == ours
        elif seat is None:
            seat = claim
            seat.truncate(0)
            seat.write(ours)
            seat.flush()
        else:
            claim.close()
    raise AssertionError


def _claim(name: str, *, wait: bool) -> IO[str] | None:
    """Takes a machine-wide claim, which the system releases when the process ends; ``None`` if it is taken."""
    stream = (_claims_folder() / name).open("a", encoding="utf-8")  # who holds it may have written into it
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        stream.close()
        return None
    return stream


def _claims_folder() -> Path:
    """The folder of this user's claims on this machine."""
    folder = Path(tempfile.gettempdir()) / f"indexer-claims-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise IndexerError(f"{folder} is not ours: somebody else made it or put a link there; remove it")
    return folder
