"""Checkpoints and a Ray cluster that several test files use, and processes for what does not fit into the test run's own."""

import multiprocessing
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from indexer import testing

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


@pytest.fixture(scope="session")
def qwen_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A 4-layer Qwen3 embedding model in bfloat16."""
    return testing.qwen3_checkpoint(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def reranker_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A 4-layer Qwen3 reranker in bfloat16, a causal language model."""
    return testing.qwen3_checkpoint(tmp_path_factory.mktemp("reranker"), kind="reranker")


@pytest.fixture(scope="session")
def minilm_path() -> str:
    """all-MiniLM-L6-v2."""
    return testing.minilm_path()


@pytest.fixture(scope="session")
def in_process() -> Callable[..., Any]:
    """Calls a module's function in a process of its own and gives its result.

    A vLLM engine keeps its memory and threads until its process ends.
    """
    return _in_process


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_use_all_cores) as process:
        return process.submit(function, *arguments).result()


def _use_all_cores() -> None:
    # vLLM runs on one thread where this is not set.
    os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
