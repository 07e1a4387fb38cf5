"""Engines on an NVIDIA GPU, with random weights. On a machine without one they run on the CPU, to test the tests.

Importing vLLM takes half a minute on some machines. So tests of a runner share a process, and the others run beside
each other: ``pytest -m gpu --numprocesses 7 --dist loadgroup``.
"""

import fcntl
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.indexing import run as indexing_run
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.engine import Engine
from indexer.inference.engine_spec import EngineSpec, Packed
from indexer.inference.pair_inputs import PairTokenizer
from indexer.search.hits import Hit
from indexer.search.published import open_published
from indexer.settings import RerankerSettings, Settings
from indexer.testing.corpora import random_texts
from tests.inference.test_parity import (
    assert_parity,
    transformers_scores,
    transformers_vectors,
    varied_pairs,
    varied_texts,
)
from tests.support.checkpoints import FAST_DTYPE, HAS_GPU
from tests.support.fakes import settings, write
from tests.support.local_cluster import LocalCluster

pytestmark = pytest.mark.gpu

RUNNERS = [pytest.param(value, id=f"runner-{value}") for value in (("0", "1") if HAS_GPU else "0")]
"""Values of VLLM_USE_V2_MODEL_RUNNER; the second runner needs Triton. conftest.py keeps the tests of each together."""

STEP_TOKENS = 2048

CACHE_BYTES = 2**29

SHARE = {
    "enforce_eager": True,
    "gpu_memory_utilization": 0.1,
    "max_num_batched_tokens": STEP_TOKENS,
    "kv_cache_memory_bytes": CACHE_BYTES,
}
"""A batch takes several steps, of which two are in flight. Engines start beside each other: with the cache's size
given, vLLM does not measure the memory that is free, nor refuse if another process gives some back meanwhile."""

MAX_TOKENS = 128


@contextmanager
def _turn(kind: int) -> Iterator[None]:
    """Waits for the GPU: ``LOCK_SH`` to share it, ``LOCK_EX`` for all of it.

    vLLM measures what is free of the whole GPU and refuses to start where somebody gives memory back meanwhile. So
    processes that have used the GPU end during a turn.
    """
    with (Path(tempfile.gettempdir()) / "qwen3-index-tests-gpu.lock").open("w") as file:
        fcntl.flock(file, kind)
        yield


@pytest.fixture(autouse=True)
def _shared(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests share the GPU, but for those that ask for the whole one."""
    with nullcontext() if "whole_gpu" in request.fixturenames else _turn(fcntl.LOCK_SH):
        yield


@pytest.fixture
def whole_gpu() -> Iterator[tuple[Executor, Executor]]:
    """Two processes that have imported vLLM, and a GPU that no other test uses meanwhile."""
    with ExitStack() as stack:
        processes = _process(), _process()
        for imported in [process.submit(_import_vllm) for process in processes]:
            imported.result()
        stack.enter_context(_turn(fcntl.LOCK_EX))
        for process in processes:
            stack.enter_context(process)
        yield processes


@pytest.fixture(scope="module", params=RUNNERS)
def runner_process(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """A process in which vLLM takes one of its model runners. Its engines come one after another."""
    process = _process({"VLLM_USE_V2_MODEL_RUNNER": request.param})
    process.submit(_import_vllm)  # while the references are computed
    yield process
    with _turn(fcntl.LOCK_SH):
        process.shutdown()


def _process(environment: dict[str, str] | None = None) -> Executor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=_set, initargs=(environment or {},))


def _set(environment: dict[str, str]) -> None:
    """Runs in the process before anything else; a method of ``os.environ`` cannot be sent there."""
    os.environ.update(environment)


def vectors(path: str, packed: Packed) -> tuple[np.ndarray, str | None]:
    """Vectors of the varied texts, and why packed steps were not used."""
    tokenizer = EmbedTokenizer(path, MAX_TOKENS)
    spec = EngineSpec(path, FAST_DTYPE, MAX_TOKENS, SHARE, packed=packed)
    engine = Engine(spec, tokenizer.queries(["one", "another"]))
    ids = tokenizer.documents(varied_texts(64)).ids
    assert ids.tokens > 2 * STEP_TOKENS
    found = engine.embed(ids)
    engine.close()
    return found, engine.way_back


def scores(path: str, packed: Packed) -> np.ndarray:
    """Scores of the varied pairs."""
    ids = PairTokenizer(path, 160).pairs(*zip(*varied_pairs(), strict=True)).ids
    engine = Engine(EngineSpec(path, FAST_DTYPE, 160, SHARE, packed=packed), ids[:2], mode="score")
    found = engine.score(ids)
    engine.close()
    return found


def kept_bytes(path: str) -> int:
    """Bytes of the GPU that a closed engine keeps."""
    import torch

    vectors(path, "auto")
    return torch.cuda.memory_reserved()


def both(path: str, reranker: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and scores of two engines in one process, as a reader has them."""
    tokenizer, pairs = EmbedTokenizer(path, MAX_TOKENS), PairTokenizer(reranker, 160)
    prompts = pairs.pairs(*zip(*varied_pairs(), strict=True)).ids
    embedder = Engine(EngineSpec(path, FAST_DTYPE, MAX_TOKENS, SHARE), tokenizer.queries(["one", "another"]))
    scorer = Engine(EngineSpec(reranker, FAST_DTYPE, 160, SHARE), prompts[:2], mode="score")
    return embedder.embed(tokenizer.documents(varied_texts(64)).ids), scorer.score(prompts)


def index_settings(root: Path, path: str) -> Settings:
    """Settings of the index."""
    return settings(
        root,
        corpus={"payload": ["kind", "text"]},  # a reranker reads the text
        model={"name": path, "max_tokens": MAX_TOKENS, "dtype": FAST_DTYPE},
        engine={"enforce_eager": True},
        index={"uri": str(root / "index"), "widths": [256]},
    )


def indexed(root: Path, path: str) -> None:
    """Makes an index of some documents."""
    write(root / "corpus" / "a.parquet", [(f"doc-{row}", text) for row, text in enumerate(random_texts(40))])
    indexing_run.run(index_settings(root, path), cluster=LocalCluster())


def reranked(root: Path, path: str, reranker: str) -> list[Hit]:
    """A question to the index and to a reranker, whose engines share a GPU by the defaults."""
    index = index_settings(root, path).index
    chosen = RerankerSettings(name=reranker, max_tokens=160)
    with open_published(index.uri, index.name, engine={"enforce_eager": True}, reranker=chosen) as published:
        (found,) = published.search([random_texts(1)[0]], k=3, rerank=10)
        return found


def long_work(path: str, ready: Any) -> None:
    """Embeds until it is killed."""
    tokenizer = EmbedTokenizer(path, MAX_TOKENS)
    engine = Engine(EngineSpec(path, FAST_DTYPE, MAX_TOKENS, SHARE), tokenizer.queries(["one", "another"]))
    ids = tokenizer.documents(random_texts(200)).ids
    ready.put(os.getpid())
    while True:
        engine.embed(ids)


def _import_vllm() -> None:
    """Does what takes longest, so that the engine itself starts at once."""
    import vllm

    assert vllm.LLMEngine


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a process that ends."""
    with _process() as process:
        return process.submit(function, *arguments).result()


def _once(factory: pytest.TempPathFactory, name: str, compute: Callable[[], Any]) -> np.ndarray:
    """An array that the first process of a run computes for all."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    file = folder / f"{name}.npy"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            np.save(file, compute())
    return np.asarray(np.load(file))


@pytest.fixture(scope="module")
def expected_vectors(qwen_path: str, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Vectors by Transformers, on the CPU."""
    case = qwen_path, varied_texts(64), MAX_TOKENS, "float32"
    return _once(tmp_path_factory, "vectors", lambda: apart(transformers_vectors, *case))


@pytest.fixture(scope="module")
def expected_scores(reranker_path: str, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Scores by Transformers, on the CPU."""
    case = reranker_path, varied_pairs(), 160, "float32"
    return _once(tmp_path_factory, "scores", lambda: apart(transformers_scores, *case))


def test_vectors_of_both_runners_equal_transformers(
    runner_process: Executor, qwen_path: str, expected_vectors: np.ndarray
) -> None:
    found, way_back = runner_process.submit(vectors, qwen_path, "auto").result()
    assert way_back is None, "packed steps were not used"
    assert_parity(found, expected_vectors, FAST_DTYPE)


def test_packed_steps_equal_the_loop(runner_process: Executor, qwen_path: str) -> None:
    loop, _ = runner_process.submit(vectors, qwen_path, "off").result()
    packed, _ = runner_process.submit(vectors, qwen_path, "on").result()
    assert (loop * packed).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("packed", ["on", "off"])
def test_scores_of_both_runners_equal_transformers(
    runner_process: Executor, reranker_path: str, expected_scores: np.ndarray, packed: Packed
) -> None:
    found = runner_process.submit(scores, reranker_path, packed).result()
    assert np.abs(found - expected_scores).max() <= 5e-3


@pytest.mark.skipif(not HAS_GPU, reason="a CPU's engine keeps nothing of a GPU")
def test_a_closed_engine_frees_the_gpu(qwen_path: str) -> None:
    assert apart(kept_bytes, qwen_path) < CACHE_BYTES


def test_two_replicas_share_a_gpu(qwen_path: str, expected_vectors: np.ndarray) -> None:
    with _process() as first, _process() as second:
        running = [process.submit(vectors, qwen_path, "auto") for process in (first, second)]
        for found, way_back in (future.result() for future in running):
            assert way_back is None
            assert_parity(found, expected_vectors, FAST_DTYPE)


def test_an_embedder_and_a_reranker_share_a_process(
    qwen_path: str, reranker_path: str, expected_vectors: np.ndarray, expected_scores: np.ndarray
) -> None:
    found, answers = apart(both, qwen_path, reranker_path)
    assert_parity(found, expected_vectors, FAST_DTYPE)
    assert np.abs(answers - expected_scores).max() <= 5e-3


def test_a_search_and_its_reranker_share_a_gpu_by_the_defaults(
    whole_gpu: tuple[Executor, Executor], qwen_path: str, reranker_path: str, tmp_path: Path
) -> None:
    indexer, reader = whole_gpu
    indexer.submit(indexed, tmp_path, qwen_path).result()
    indexer.shutdown()  # its engine would have most of the GPU
    found = reader.submit(reranked, tmp_path, qwen_path, reranker_path).result()
    assert len(found) == 3
    assert sorted((hit.score for hit in found), reverse=True) == [hit.score for hit in found]
    assert all(0 < hit.score < 1 for hit in found)


def test_an_engine_starts_where_another_was_killed(qwen_path: str, expected_vectors: np.ndarray) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _process() as victim, _process() as successor:
        ready = manager.Queue()
        working = victim.submit(long_work, qwen_path, ready)
        successor.submit(_import_vllm).result()
        os.kill(ready.get(timeout=300), signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            working.result()
        found, way_back = successor.submit(vectors, qwen_path, "auto").result()
    assert way_back is None
    assert_parity(found, expected_vectors, FAST_DTYPE)
