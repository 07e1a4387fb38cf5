"""How a job comes to its Ray: what it joins, what it starts, and what it says when it gets none."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from indexer.cluster import session
from indexer.cluster.connection import Cluster
from indexer.errors import IndexerError, SettingsError
from indexer.settings import ClusterSettings

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]

JOB = """
from indexer.cluster import session
from indexer.cluster.connection import Cluster
from indexer.commands.entry import execute
from indexer.settings import ClusterSettings

session.QUIET_SECONDS, session.CONNECT_SECONDS = {seconds}

def main():
    with Cluster(ClusterSettings()):
        pass

execute(main)
"""


@contextmanager
def job(seconds: tuple[float, float], **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A job that connects to Ray."""
    hidden = {"RAY_ADDRESS", "RAY_TMPDIR"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    command = [sys.executable, "-c", JOB.format(seconds=seconds)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def mute() -> Iterator[str]:
    """Address at which connections are accepted and nothing is answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", ["http://user:secret@127.0.0.1:8265", "head", "127.0.0.1:port"])
def test_what_is_no_address_of_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SettingsError, match=r"^RAY_ADDRESS: .*host:port") as refusal, Cluster(ClusterSettings()):
        pass
    assert "secret" not in str(refusal.value)


def test_an_address_where_nobody_is_takes_seconds() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    began = time.monotonic()
    with (
        pytest.raises(IndexerError, match=rf"^cluster\.address: nobody answers at {free}"),
        Cluster(ClusterSettings(address=free)),
    ):
        pass
    assert time.monotonic() - began < 10


def test_connecting_says_what_it_waits_for_and_has_a_deadline(mute: str) -> None:
    with job((0.5, 3.0), RAY_ADDRESS=mute) as process:
        _, said = process.communicate(timeout=60)
    lines = [line for line in said.splitlines() if not line.startswith("[")]  # of Ray's own C++
    assert process.returncode == 1
    waiting, error = lines
    assert waiting.endswith(f" INFO waiting for the Ray cluster at {mute}, for at most 3 s")
    assert error == f"error: waited 3 s in vain for the Ray cluster at {mute}"


def test_a_signal_ends_the_waiting(mute: str) -> None:
    with job((0.5, 120.0), RAY_ADDRESS=mute) as process:
        assert process.stderr is not None
        assert "waiting for the Ray cluster" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted; run the same command again to resume" in said


def test_a_ray_that_does_not_start_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's own timeout, which it raises as a plain exception."""
    tries = []

    def fail() -> None:
        tries.append(len(tries))
        raise Exception("The current node timed out during startup.\nThis could happen because")  # noqa: TRY002

    monkeypatch.setattr(session, "_start_own", fail)
    with (
        pytest.raises(IndexerError, match=r"a Ray of our own to start: The current node timed out during startup\.$"),
        Cluster(ClusterSettings(address="local")),
    ):
        pass
    assert len(tries) == 2
    assert capsys.readouterr().err.count("trying once more") == 1


def test_a_full_temporary_folder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LEAST_FREE_BYTES", 1 << 60)
    with pytest.raises(IndexerError, match=r" is full \(.*RAY_TMPDIR"), Cluster(ClusterSettings(address="local")):
        pass
