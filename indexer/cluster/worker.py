"""The worker actor: one process with one engine, pinned to its cores."""

import fcntl
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from indexer.cluster.pipeline import Piece, Pipeline
from indexer.errors import EngineDead, IndexerError
from indexer.steps import current_step, step

PROCESS_ENDED = 70
"""Exit status of a worker process whose engine died (``EX_SOFTWARE`` of sysexits.h)."""

MakePipeline = Callable[[], Pipeline[Any, Any, Any, Any]]


class Worker:
    """Actor: one process, one engine, one pipeline."""

    _pipeline: Pipeline[Any, Any, Any, Any]

    def __init__(self, cores: int) -> None:
        """Pins the process.

        Args:
            cores: Cores to pin to; 0 on GPU machines, where the engine waits for the device and not for a core.
        """
        logging.getLogger("vllm").setLevel(logging.ERROR)
        self._claims = _pin(cores) if cores else []

    def where(self) -> str:
        """This machine and its GPU, for messages."""
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        return socket.gethostname() + (f", GPU {gpu}" if gpu else "")

    def start(self, make_pipeline: MakePipeline) -> int:
        """Starts the engine, one at a time per GPU: vLLM sizes its memory by the memory free at its start.

        Returns:
            The process id.
        """
        with _turn(f"gpu-{os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}", wait=not self._claims):
            self._pipeline = make_pipeline()
        return os.getpid()

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
def _turn(name: str, *, wait: bool) -> Iterator[None]:
    """Holds a claim during the block, waiting for it first; without ``wait`` it does nothing."""
    with step("waiting until another engine on its GPU has started"):
        claim = _claim(name, wait=True) if wait else None
    try:
        yield
    finally:
        if claim is not None:
            claim.close()


def _claim(name: str, *, wait: bool) -> IO[str] | None:
    """Takes a machine-wide claim, which the system releases when the process ends; ``None`` if it is taken."""
    folder = Path(tempfile.gettempdir()) / f"indexer-claims-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise IndexerError(f"{folder} is not ours: somebody else made it or put a link there; remove it")
    stream = (folder / name).open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        stream.close()
        return None
    return stream
