"""Ray clusters for tests: a head, further machines that can be lost, and their end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A cluster's first machine.

    Attributes:
        address: Address that drivers and further machines join.
        folder: Ray's temporary folder.
    """

    address: str
    folder: str


@contextmanager
def ray_head(cores: int, gpus: int = 0) -> Iterator[Head]:
    """Starts a cluster of one machine, and ends it with everything that joined it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = Head(f"127.0.0.1:{port}", tempfile.mkdtemp(prefix="ray-"))
    try:
        first = ("--head", f"--port={port}", "--include-dashboard=false")
        _start(head.folder, *first, "--node-ip-address=127.0.0.1", f"--num-cpus={cores}", f"--num-gpus={gpus}")
        yield head
    finally:
        end_ray(head.folder)


def join(head: Head, cores: int) -> int:
    """Joins another machine: this one, under another loopback address.

    Returns:
        Process id of its raylet; ending it loses the machine with all its workers.
    """
    before = _raylets(head.folder)
    _start(head.folder, f"--address={head.address}", "--node-ip-address=127.0.0.2", f"--num-cpus={cores}")
    (raylet,) = _raylets(head.folder) - before
    return raylet


def _start(folder: str, *options: str) -> None:
    """Runs `ray start` with a temporary folder of its own."""
    command = [RAY, "start", *options, "--disable-usage-stats", f"--object-store-memory={256 << 20}"]
    subprocess.run(command, env=os.environ | {"RAY_TMPDIR": folder}, check=True, capture_output=True, timeout=120)


def _raylets(folder: str) -> set[int]:
    """Process ids of the Ray's raylets, one per machine."""
    return {process for process in ray_processes(folder) if Path(f"/proc/{process}/exe").readlink().name == "raylet"}


def ray_processes(folder: str) -> list[int]:
    """Processes of the Ray with this temporary folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            variables = (entry / "environ").read_bytes() if b"ray" in words else b""
        except OSError:
            continue
        if folder.encode() in words + variables and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def end_ray(folder: str) -> None:
    """Ends the Ray with this folder and removes the folder; `ray stop` would end every Ray of the machine."""
    for process in ray_processes(folder):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
