"""What several test files use: checkpoints, a Ray cluster, processes for what does not fit into the test run's own."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

import pytest

from indexer.indexing import sandbox
from indexer.testing import checkpoints
from tests.support.checkpoints import FAST_DTYPE, FEW, HAS_GPU
from tests.support.gpu_shares import take_little
from tests.support.rays import ray_head
from tests.support.reading import ReaderHere


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster of two cores for all tests, which runs find through RAY_ADDRESS as in a submitted job."""
    with ray_head(cores=2) as head:
        os.environ |= {"RAY_ADDRESS": head.address, "RAY_TMPDIR": head.folder}
        yield
        del os.environ["RAY_ADDRESS"], os.environ["RAY_TMPDIR"]


READING_PROCESS = sandbox._start


@pytest.fixture(scope="session", autouse=True)
def _readers_here() -> Iterator[None]:
    """Files are read in this process, except by tests of the process itself and of the jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "_start", ReaderHere)
        yield


@pytest.fixture
def reading_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in a process of their own, as in a run."""
    monkeypatch.setattr(sandbox, "_start", READING_PROCESS)


@pytest.fixture(scope="session")
def qwen_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A 4-layer Qwen3 embedding model."""
    return checkpoints.qwen3_checkpoint(tmp_path_factory.mktemp("qwen3"), FEW, dtype=FAST_DTYPE)


@pytest.fixture(scope="session")
def reranker_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A 4-layer Qwen3 reranker, a causal language model."""
    return checkpoints.qwen3_checkpoint(tmp_path_factory.mktemp("reranker"), FEW, kind="reranker", dtype=FAST_DTYPE)


@pytest.fixture(scope="session")
def minilm_path() -> str:
    """all-MiniLM-L6-v2."""
    return checkpoints.minilm_path()


@pytest.fixture(scope="module")
def engine_process() -> Iterator[Executor]:
    """A process for vLLM, which keeps its threads until its process ends. It imports vLLM once for all, in 10 s."""
    # A GPU's driver does not survive a fork, if an import has woken it.
    context = multiprocessing.get_context("spawn" if HAS_GPU else "forkserver")
    context.set_forkserver_preload(["tests.support.engine_imports"])
    with ProcessPoolExecutor(1, context, initializer=take_little if HAS_GPU else None) as process:
        yield process


@pytest.fixture(scope="session")
def reference_process() -> Iterator[Executor]:
    """A process for other implementations, which vLLM must not have changed. Their imports take seconds."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield process


HEAVY_FIXTURES = {
    "engine_process", "qwen_path", "qwen_tokenizer_path", "ray_cluster", "ray_folder", "reference_process",
    "reranker_path", "reranker_tokenizer_path",
}  # fmt: skip
"""Fixtures that start Ray or an engine, or write Qwen3's tokenizer of 151,643 words."""

HEAVY_FOLDERS = {"benchmarks", "faults"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as heavy what uses such a fixture, directly or not, or is in such a folder; files with such tests go first.

    The light ones of the end then keep every process of a parallel run busy until the last second.
    """
    for item in items:
        uses = isinstance(item, pytest.Function) and HEAVY_FIXTURES & set(item.fixturenames)
        if uses or item.path.parent.name in HEAVY_FOLDERS:
            item.add_marker(pytest.mark.heavy)
    heavy = {item.path for item in items if item.get_closest_marker("heavy")}
    items.sort(key=lambda item: item.path not in heavy)
