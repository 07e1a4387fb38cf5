"""Checkpoints that several test files read, and processes for what does not fit into the test run's own."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from indexer import testing


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
