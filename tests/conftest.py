"""Fixtures of several test files."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Ray reads these when it is first imported, by whichever test file comes first.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One Ray cluster of two cores for all tests, which runs find through RAY_ADDRESS as in a submitted job."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = [RAY, "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
    quiet = ["--include-dashboard=false", "--disable-usage-stats", f"--object-store-memory={256 << 20}"]
    subprocess.run([*start, *quiet], check=True, capture_output=True, timeout=120)
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    yield os.environ["RAY_ADDRESS"]
    del os.environ["RAY_ADDRESS"]
    subprocess.run([RAY, "stop", "--force"], check=True, capture_output=True, timeout=120)
