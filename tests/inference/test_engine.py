"""The engine: order, refusals, death. Real engines, in a process of their own, and the checks of what they give."""

import dataclasses
import gc
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from indexer.errors import EngineDead, EngineError, SettingsError
from indexer.inference import process_state
from indexer.inference.canary import check_scores, check_vectors
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.engine import Engine
from indexer.inference.engine_arguments import argument_names, check_arguments
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.sequences import TokenSequences
from indexer.steps import current_step
from indexer.testing import corpora, random_weights

MAX_TOKENS = 64

EAGER = {"enforce_eager": True}

UNIT = np.eye(3, 8, dtype=np.float32)


def embed_cases(path: str) -> dict[str, Any]:
    """Everything that is asked of one engine in embed mode; small batches, so that one call takes several steps."""
    tokenizer = EmbedTokenizer(path, MAX_TOKENS)
    ids = tokenizer.documents(corpora.random_texts(60, words=(1, 30))).ids
    shuffled = np.random.default_rng(0).permutation(len(ids))
    with watched_start() as seen:
        engine = Engine(EngineSpec(path, "float32", MAX_TOKENS, {**EAGER, "max_num_seqs": 4}), ids[:3])
    found = {
        **seen,
        "dimension": engine.dimension,
        "together": engine.embed(ids),
        "shuffled": engine.embed(ids.take(shuffled))[np.argsort(shuffled)],
        "alone": np.concatenate([engine.embed(ids[row : row + 1]) for row in range(len(ids))]),
        "none": engine.embed(TokenSequences.of([])),
        "refused": [_refusal(engine, row) for row in ([], [1] * (MAX_TOKENS + 1))],
        "after refusals": engine.embed(ids[:1]),
    }
    # No such row in the embedding table: vLLM itself fails.
    found["dead"] = [_refusal(engine, row) for row in ([random_weights.QWEN_VOCABULARY + 10**6], ids[0].tolist())]
    return found


def left_engines() -> int:
    """Engines that are living though nobody uses them any more."""
    gc.collect()
    return process_state.living()


@contextmanager
def watched_start() -> Iterator[dict[str, Any]]:
    """Steps of a process's first start, files that it leaves in the temporary folder, objects that collections walk."""
    seen: dict[str, Any] = {"walked": 0, "steps": []}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            if current_step() not in seen["steps"]:
                seen["steps"].append(current_step())

    def walks(phase: str, about: dict[str, int]) -> None:
        if phase == "start" and about["generation"] == 2:
            seen["walked"] += len(gc.get_objects())

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        gc.callbacks.append(walks)
        threading.Thread(target=watch, daemon=True).start()
        yield seen
        ended.set()
        gc.callbacks.remove(walks)
        seen |= {"files": os.listdir(folder), "frozen": gc.get_freeze_count()}  # noqa: PTH208


def refused_start(path: str, max_tokens: int, arguments: dict[str, Any], canary: list[list[int]]) -> str:
    """The message with which an engine refuses to start."""
    with pytest.raises(EngineError) as refused:
        Engine(EngineSpec(path, "auto", max_tokens, {**EAGER, **arguments}), TokenSequences.of(canary))
    return str(refused.value)


def refused_canary(path: str) -> tuple[str, int, int]:
    """The message of an engine that gives the same vector twice, and living engines before and while it is held."""
    before = left_engines()
    with pytest.raises(EngineError) as refused:
        Engine(EngineSpec(path, "auto", MAX_TOKENS, EAGER), TokenSequences.of([[1, 2, 3], [1, 2, 3]]))
    return str(refused.value), before, process_state.living()


def vllm_argument_names() -> set[str]:
    """Engine arguments as vLLM's dataclass has them."""
    from vllm import EngineArgs

    return {field.name for field in dataclasses.fields(EngineArgs)}


def read_argument_names() -> tuple[set[str], bool]:
    """Engine arguments as we read them, and whether that imported vLLM."""
    return set(argument_names()), "vllm" in sys.modules


def _refusal(engine: Engine, row: list[int]) -> tuple[type[Exception], str]:
    with pytest.raises((ValueError, EngineDead)) as refused:
        engine.embed(TokenSequences.of([row]))
    return refused.type, str(refused.value)


@pytest.fixture(scope="module")
def embedded(qwen_path: str) -> dict[str, Any]:
    """What an engine in embed mode answers, in a process that imports vLLM itself."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found = process.submit(embed_cases, qwen_path).result()
        return {**found, "left": process.submit(left_engines).result()}


def test_rows_keep_their_order(embedded: dict[str, Any]) -> None:
    together = embedded["together"]
    assert (together.dtype, together.shape) == (np.float32, (60, embedded["dimension"]))
    assert together.flags.c_contiguous
    np.testing.assert_allclose(embedded["shuffled"], together, atol=1e-4)
    np.testing.assert_allclose(embedded["alone"], together, atol=1e-4)
    assert (together @ together.T - 2 * np.eye(60)).max() < 0.99, "vectors that are all alike show no order"


def test_a_start_says_what_it_does(embedded: dict[str, Any]) -> None:
    steps = [step for step in embedded["steps"] if step]
    assert steps == ["importing vLLM", "loading the weights", "trying the engine on known texts"]


def test_a_start_leaves_no_file_of_its_device_group(embedded: dict[str, Any]) -> None:
    assert not [name for name in embedded["files"] if name.startswith("vllm_dist")]


def test_collections_during_a_start_do_not_walk_what_the_import_made(embedded: dict[str, Any]) -> None:
    """Python and vLLM make a dozen full collections, each of which would walk all of it."""
    assert embedded["walked"] < embedded["frozen"]


def test_the_engine_with_which_a_process_imports_vllm_is_freed_as_others_are(embedded: dict[str, Any]) -> None:
    """An error that vLLM keeps of its import has the frames of whoever waited for it."""
    assert embedded["left"] == 0


def test_an_empty_batch_gives_an_empty_array(embedded: dict[str, Any]) -> None:
    assert embedded["none"].shape == (0, embedded["dimension"])


def test_unusable_sequences_are_refused_before_vllm_sees_them(embedded: dict[str, Any]) -> None:
    assert embedded["refused"] == [
        (ValueError, "a sequence has 0 token ids; 1 to 64 are possible"),
        (ValueError, "a sequence has 65 token ids; 1 to 64 are possible"),
    ]
    np.testing.assert_allclose(embedded["after refusals"], embedded["alone"][:1], atol=1e-6)


def test_an_engine_that_failed_is_dead(embedded: dict[str, Any]) -> None:
    """Also for every later call: sequences of the failed one could come back in its rows."""
    (first, reason), (second, _) = embedded["dead"]
    assert first is second is EngineDead
    assert "index out of range" in reason


@pytest.mark.parametrize(
    ("max_tokens", "arguments", "message"),
    [
        (64, {"max_num_batched_tokens": 32}, "max_num_batched_tokens"),
        (64, {"gpu_memory_utilization": 7}, "gpu_memory_utilization: Input should be less than or equal to 1"),
        (10**6, {}, "max_model_len"),
    ],
)
def test_what_vllm_refuses_is_said_in_one_line(
    max_tokens: int, arguments: dict[str, Any], message: str, qwen_path: str, engine_process: Executor
) -> None:
    said = engine_process.submit(refused_start, qwen_path, max_tokens, arguments, []).result()
    assert message in said
    assert "\n" not in said


def drop_engines(path: str) -> tuple[list[np.ndarray], list[int]]:
    """What an engine embeds while another is there, is dropped, and is closed twice; and how many are living."""
    ids = EmbedTokenizer(path, 64).documents(["one", "another", "a third"]).ids
    dropped, closed, kept = (Engine(EngineSpec(path, "float32", 64, EAGER), ids) for _ in range(3))
    found, living = [kept.embed(ids)], [process_state.living()]
    dropped.itself = dropped  # type: ignore[attr-defined]  # the garbage collector finds it some day
    del dropped
    gc.unfreeze()
    gc.collect()
    found.append(kept.embed(ids))
    living.append(process_state.living())
    closed.close()
    closed.close()
    found.append(kept.embed(ids))
    living.append(process_state.living())
    kept.close()
    with pytest.raises(EngineDead):
        kept.embed(ids)
    return found, [*living, process_state.living()]


def test_an_engine_that_is_dropped_or_closed_leaves_the_others_running(
    qwen_path: str, engine_process: Executor
) -> None:
    found, living = engine_process.submit(drop_engines, qwen_path).result()
    assert living == [3, 2, 1, 0]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def core_apart(path: str) -> tuple[np.ndarray, list[int]]:
    """What an engine embeds whose core has a process of its own, and how many live before and after its end."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    ids = EmbedTokenizer(path, 64).documents(["one", "another"]).ids
    engine = Engine(EngineSpec(path, "float32", 64, EAGER), ids)
    found, living = engine.embed(ids), [process_state.living()]
    engine.close()
    engine.close()
    return found, [*living, process_state.living()]


@pytest.mark.slow  # a comparison in benchmarks.engine, which the job never uses
def test_an_engine_s_core_may_have_a_process_of_its_own(qwen_path: str) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found, living = process.submit(core_apart, qwen_path).result()
    assert living == [1, 0]
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)


def compile_seconds(path: str) -> list[float]:
    """Seconds that an engine compiled which is to, and one which is not."""
    ids = EmbedTokenizer(path, 64).queries(["one", "another"])
    return [Engine(EngineSpec(path, "float32", 64, given), ids).compile_seconds for given in ({}, EAGER)]


@pytest.mark.slow
def test_an_engine_knows_how_long_it_compiled(qwen_path: str, engine_process: Executor) -> None:
    compiled, eager = engine_process.submit(compile_seconds, qwen_path).result()
    assert compiled > 0.1
    assert eager == 0


def test_an_engine_whose_canary_fails_does_not_start_and_is_freed(qwen_path: str, engine_process: Executor) -> None:
    said, before, after = engine_process.submit(refused_canary, qwen_path).result()
    assert "the same vector" in said
    assert after == before


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (UNIT[:, :7], "width 7, not 8"),
        (np.where(UNIT == 1, np.nan, UNIT), "not finite"),
        (UNIT * 0.9, "norm 0.9000 to 0.9000"),
        (UNIT[[0, 0, 1]], "the same vector"),
    ],
)
def test_the_canary_refuses_unusable_vectors(vectors: np.ndarray, message: str) -> None:
    check_vectors(UNIT, 8)
    with pytest.raises(EngineError, match=message):
        check_vectors(vectors, 8)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5, 0.5, 0.5], "every pair the score 0.5000"),
        ([0.0, 1e-9, 3e-9], "every pair the score 0.0000"),
        ([0.2, np.nan, 0.1], "not finite"),
        ([0.2, 1.2, 0.1], "not within 0 to 1"),
    ],
)
def test_the_canary_refuses_unusable_scores(scores: list[float], message: str) -> None:
    check_scores(np.array([0.0, 1.0, 0.3], np.float32))
    with pytest.raises(EngineError, match=message):
        check_scores(np.array(scores, np.float32))


def test_arguments_are_vllms_own() -> None:
    check_arguments({"max_num_seqs": 8})
    with pytest.raises(SettingsError, match=r"did you mean engine\.max_num_seqs\?"):
        check_arguments({"max_num_seq": 8})
    with pytest.raises(SettingsError, match=r"set model\.max_tokens"):
        check_arguments({"max_model_len": 8})
    with pytest.raises(SettingsError, match="cannot be set"):
        check_arguments({"trust_remote_code": True})


def test_arguments_are_known_without_importing_vllm(engine_process: Executor, reference_process: Executor) -> None:
    names, imported = reference_process.submit(read_argument_names).result()
    assert names == engine_process.submit(vllm_argument_names).result()
    assert not imported
