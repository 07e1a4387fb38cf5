"""Ray clusters for tests: a head, further machines that can be lost, and their end."""

import json
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

import pytest

RAY = str(Path(sys.executable).with_name("ray"))


UNUSED_LISTS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)
"""Keys that the autoscaler's configuration must have."""


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
def ray_head(cores: int, gpus: int = 0, *options: str) -> Iterator[Head]:
    """Starts a cluster of one machine, with more options of `ray start`, and ends it with everything that joined it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = Head(f"127.0.0.1:{port}", tempfile.mkdtemp(prefix="ray-"))
    try:
        first = ("--head", f"--port={port}", "--include-dashboard=false")
        _start(
            head.folder, *first, "--node-ip-address=127.0.0.1", f"--num-cpus={cores}", f"--num-gpus={gpus}", *options
        )
        yield head
    finally:
        end_ray(head.folder)


@contextmanager
def autoscaled(machines: int, cores: int) -> Iterator[Head]:
    """A head with one core, whose autoscaler starts machines when they are asked for, and ends idle ones after seconds.

    Ray's own AutoscalingCluster begins and ends with `ray stop`, which would end every Ray of the machine.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = Head(f"127.0.0.1:{port}", tempfile.mkdtemp(prefix="ray-"))
    worker = {"resources": {"CPU": cores, "object_store_memory": 80 << 20}, "node_config": {}}
    config = {
        "cluster_name": "fake",
        "max_workers": machines,
        "provider": {"type": "fake_multinode", "gcs_address": head.address, "launch_multiple": True},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "worker": worker | {"min_workers": 0, "max_workers": machines},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.05,
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in UNUSED_LISTS},
        "file_mounts_sync_continuously": False,
    }
    file = Path(head.folder) / "autoscaler.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}
    options = ("--head", f"--port={port}", "--include-dashboard=false", "--node-ip-address=127.0.0.1", "--num-cpus=1")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in fake.items():
                patch.setenv(name, value)
            _start(head.folder, *options, f"--autoscaling-config={file}")
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


def is_at_work(machine: int) -> bool:
    """Whether a worker on the machine with this raylet computes a shard now: Ray names its process after the method."""
    return any(b"ray::Worker.run" in line for line in _children(machine).values())


def lose(machine: int) -> None:
    """Ends the machine with this raylet and, as a real loss does, all its processes: a worker outlives its raylet."""
    for process in (machine, *_children(machine)):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _children(parent: int) -> dict[int, bytes]:
    """Process ids and command lines of a process's children."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if parent == int((entry / "stat").read_text().rpartition(")")[2].split()[1]):
                found[int(entry.name)] = (entry / "cmdline").read_bytes()
    return found


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
