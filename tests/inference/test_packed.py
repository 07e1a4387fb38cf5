"""Packed steps: layout against a simulated KV cache, results against vLLM's own loop, and the internals they use."""

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from indexer.inference import packed
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.engine import Engine
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.packed import PackedRunner, PackedUnavailable
from indexer.inference.packed_layout import Step
from indexer.inference.packed_model import (
    INTERNALS,
    RUNNER_ATTRIBUTES,
    RUNNER_V2_SOURCES,
    PackedModel,
    RunnerAccess,
    _refuse_settings,
    vllm_version,
)
from indexer.inference.pair_inputs import PairTokenizer
from indexer.inference.sequences import TokenSequences
from tests.inference.test_parity import LEAST_COSINE, varied_pairs, varied_texts
from tests.support.checkpoints import cross_encoder, needs_bfloat16

VLLM = "0.32.0"
"""The version whose internals are used. Read what changed in them before this is raised."""

EAGER = {"enforce_eager": True}
EVERY = pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
"""Which of the parity suite's texts and pairs: a seventh of them shows the same in a seventh of the time.

It shares no factor with the 8 lengths of a text nor with the 20 documents of a query: texts of all lengths come, every
document, and every query with two or three of them.
"""

BFLOAT16 = pytest.param("bfloat16", marks=needs_bfloat16)


def spec(path: str, dtype: str, max_tokens: int) -> EngineSpec:
    """An engine on vLLM's own loop."""
    return EngineSpec(path, dtype, max_tokens, EAGER, packed="off")


def scores(runner: PackedRunner, rows: list[list[int]]) -> np.ndarray:
    """What the runner gives, shape (n,)."""
    return runner.run(TokenSequences.of(rows))[:, 0]


SPOILT = 99
"""Id that gives NaN, also for sequences in whose last block it was left behind."""


class SimulatedModel:
    """A model whose result is the digest of all tokens that a sequence reads through its block table."""

    task, on_cpu, block_size, blocks = "classify", True, 4, 40

    def __init__(self, _: Any) -> None:
        self.cache = np.full(self.blocks * self.block_size, -1)
        self.tokens = 0
        self.largest = 0

    def clear_cache(self) -> None:
        self.cache[:] = 0

    def launch(self, step: Step) -> Any:
        assert len(np.unique(step.slots)) == len(step.slots)
        assert step.slots.min() >= self.block_size, "block 0 is vLLM's"
        self.cache[step.slots] = step.ids
        spoilt = self.cache == SPOILT
        self.tokens += len(step.ids)
        self.largest = max(self.largest, len(step.ids))
        results = []
        for row, length in enumerate(step.lengths):
            places = np.arange(length)
            slots = step.table[row, places // self.block_size] * self.block_size + places % self.block_size
            assert self.cache[slots].min() >= 0
            positions = step.positions[step.starts[row] : step.starts[row + 1]]
            assert positions.tolist() == list(range(length - step.own[row], length))
            behind = slots[-1] // self.block_size * self.block_size + np.arange(self.block_size)
            bad = spoilt[slots].any() or spoilt[behind].any()
            results.append([np.nan if bad else digest(self.cache[slots].tolist())])
        return SimpleNamespace(rows=step.rows, tokens=len(step.ids), read=lambda: np.array(results, np.float32))


def digest(ids: list[int]) -> float:
    """A number that depends on every id and its place."""
    return float(hash(tuple(ids)) % 1_000_003)


def simulated(monkeypatch: pytest.MonkeyPatch, *, caching: bool = True) -> PackedRunner:
    monkeypatch.setattr(packed, "PackedModel", SimulatedModel)
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_batched_tokens=48, max_num_seqs=8),
        model_config=SimpleNamespace(max_model_len=40, embedding_size=1),
        cache_config=SimpleNamespace(enable_prefix_caching=caching),
    )
    return PackedRunner(
        SimpleNamespace(vllm_config=config, has_unfinished_requests=lambda: False, reset_prefix_cache=lambda: None)  # type: ignore[arg-type]
    )


def related_sequences(seed: int, n: int) -> list[list[int]]:
    """Sequences of 1 to 40 ids that often begin alike."""
    generator = np.random.default_rng(seed)
    stems = generator.integers(0, 3, (4, 30)).tolist()
    return [
        stems[generator.integers(4)][: generator.integers(0, 31)]
        + generator.integers(0, 3, generator.integers(1, 11)).tolist()
        for _ in range(n)
    ]


def fewest_tokens(rows: list[list[int]], size: int) -> int:
    """Tokens computed when whole blocks are computed once and the last token of each sequence always."""
    known: set[tuple[int, ...]] = set()
    computed = 0
    for row in sorted(rows):
        shared = 0
        while (shared + 1) * size < len(row) and tuple(row[: (shared + 1) * size]) in known:
            shared += 1
        computed += len(row) - shared * size
        known |= {tuple(row[: end * size]) for end in range(1, len(row) // size + 1)}
    return computed


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [1, 5, 60])
def test_every_sequence_reads_its_own_tokens(seed: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over calls that fit into the KV cache and calls that do not; no token is computed that the call has already."""
    runner = simulated(monkeypatch)
    model: Any = runner._model
    for call in range(6):
        rows = related_sequences(100 * seed + call, size)
        before = model.tokens, runner.cached_tokens
        assert scores(runner, rows).tolist() == [digest(row) for row in rows]
        computed, cached = model.tokens - before[0], runner.cached_tokens - before[1]
        assert computed + cached == sum(map(len, rows))
        assert computed <= fewest_tokens(rows, model.block_size)
    assert model.largest <= 48


def test_a_call_again_computes_last_blocks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = simulated(monkeypatch)
    rows = related_sequences(0, 5)
    scores(runner, rows)
    before = runner._model.tokens  # type: ignore[attr-defined]
    scores(runner, rows)
    assert runner._model.tokens - before <= 4 * len(rows)  # type: ignore[attr-defined]
    runner.forget()
    scores(runner, rows)
    assert runner._model.tokens - before > 4 * len(rows)  # type: ignore[attr-defined]


def test_without_prefix_caching_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = simulated(monkeypatch, caching=False)
    rows = related_sequences(1, 60)
    assert scores(runner, rows).tolist() == [digest(row) for row in rows]
    assert runner.cached_tokens == 0


def test_a_failed_step_leaves_nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = simulated(monkeypatch)
    rows = related_sequences(2, 6)
    with monkeypatch.context() as patch:
        patch.setattr(runner._model, "launch", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scores(runner, rows)
    assert scores(runner, rows).tolist() == [digest(row) for row in rows]


@pytest.mark.parametrize("caching", [True, False])
def test_a_sequence_that_gives_nan_spoils_no_other(monkeypatch: pytest.MonkeyPatch, *, caching: bool) -> None:
    runner = simulated(monkeypatch, caching=caching)
    rows = related_sequences(3, 50)
    for spoilt in (4, 20, 21, 49):
        rows[spoilt][len(rows[spoilt]) // 2] = SPOILT
    expected = [np.nan if SPOILT in row else digest(row) for row in rows]
    for _ in range(2):
        np.testing.assert_array_equal(scores(runner, rows), np.array(expected, np.float32))


def test_unusable_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = simulated(monkeypatch)
    for rows, message in (([[1], []], "0 token ids"), ([[1] * 41], "41 token ids; 1 to 40")):
        with pytest.raises(ValueError, match=message):
            scores(runner, rows)
    assert scores(runner, []).shape == (0,)


def test_a_deadline_surrounds_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = simulated(monkeypatch, caching=False)
    allowed: list[int] = []

    @contextmanager
    def deadline(tokens: int) -> Iterator[None]:
        allowed.append(tokens)
        yield

    runner._deadline = deadline
    scores(runner, [[1] * 30, [2] * 20, [3] * 10])
    assert allowed == [30, 60, 30], "the step that is launched and the one whose result is read"


@pytest.mark.parametrize(
    ("section", "name", "value", "reason"),
    [
        ("parallel_config", "world_size", 2, "several processes"),
        ("parallel_config", "use_ubatching", True, "micro-batches"),
        ("model_config", "uses_mrope", True, "several axes"),
        ("model_config", "is_multimodal_model", True, "more than token ids"),
        ("scheduler_config", "max_num_batched_tokens", 63, "less than max_model_len"),
        (None, "lora_config", object(), "LoRA"),
    ],
)
def test_settings_that_need_vllms_own_loop_are_refused(section: str | None, name: str, value: Any, reason: str) -> None:
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(world_size=1, data_parallel_size=1, use_ubatching=False),
        model_config=SimpleNamespace(
            is_multimodal_model=False,
            enable_prompt_embeds=False,
            uses_mrope=False,
            is_encoder_decoder=False,
            max_model_len=64,
        ),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=64),
        lora_config=None,
        speculative_config=None,
        kv_transfer_config=None,
    )
    _refuse_settings(config)
    setattr(config if section is None else getattr(config, section), name, value)
    with pytest.raises(PackedUnavailable, match=reason):
        _refuse_settings(config)


def embed_cases(path: str, dtype: str, every: int) -> dict[str, Any]:
    """Vectors of texts by vLLM's loop, and packed in steps of several sizes."""
    tokenizer = EmbedTokenizer(path, 128)
    rows = tokenizer.documents(varied_texts(64)[::every]).ids
    engine = Engine(spec(path, dtype, 128), tokenizer.queries(["one", "another"]))
    runner = PackedRunner(engine._engine)
    found = {"loop": engine.embed(rows), "none": runner.run(TokenSequences.of([]))}
    for tokens in (4096, 300):
        runner.step_tokens = tokens
        found[tokens] = runner.run(rows)
    found["attributes"] = [hasattr(_model_runner(engine), name) for name in RUNNER_ATTRIBUTES]
    for cache in _model_runner(engine).kv_caches:
        cache.fill_(float("nan"))
    found["after NaN"] = runner.run(rows)
    return found


def score_cases(path: str, dtype: str, max_tokens: int, every: int) -> dict[str, Any]:
    """Scores of pairs by vLLM's loop and packed, and the tokens that each reused."""
    batch = PairTokenizer(path, max_tokens).pairs(*zip(*varied_pairs()[::every], strict=True))
    second, some = batch.second, None if batch.second is None else batch.second[:2]
    engine = Engine(spec(path, dtype, max_tokens), batch.ids[:2], mode="score", canary_second=some)
    runner = PackedRunner(engine._engine)
    runner.run(batch.ids[:2], some)
    found = {"loop": engine.score(batch.ids, second), "loop reused": engine.cached_tokens}
    runner.forget()
    runner.run(batch.ids[:2], some)
    runner.cached_tokens = runner.cached_tokens // 2
    found |= {"packed": runner.run(batch.ids, second)[:, 0], "packed reused": runner.cached_tokens}
    runner.step_tokens = 400
    found["held"] = runner.run(batch.ids, second)[:, 0]
    runner.forget()
    found["small steps"] = runner.run(batch.ids, second)[:, 0]
    found["loop again"] = engine.score(batch.ids, second)
    return found


def refused_start(path: str) -> str:
    """Why an engine whose model runner is not where it was cannot be run packed."""
    engine = Engine(spec(path, "float32", 64), TokenSequences.of([[1, 2], [3, 4]]))
    runner = _model_runner(engine)
    groups = runner.attn_groups
    del runner.attn_groups
    with pytest.raises(PackedUnavailable) as refused:
        PackedModel(engine._engine)
    runner.attn_groups = groups
    return str(refused.value)


def _model_runner(engine: Engine) -> Any:
    return engine._engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner


def parts_of(name: str) -> set[str]:
    """Attributes and parameters of one of vLLM's classes or functions."""
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    fields = getattr(found, "__struct_fields__", ())
    return {*dir(found), *inspect.signature(found).parameters, *fields, *getattr(found, "__annotations__", ())}


@EVERY
@pytest.mark.parametrize("dtype", [BFLOAT16, "float32"])
@pytest.mark.parametrize("model", ["qwen_path", "minilm_path"])
def test_vectors_are_those_of_vllms_loop(
    model: str, dtype: str, every: int, request: pytest.FixtureRequest, engine_process: Executor
) -> None:
    found = engine_process.submit(embed_cases, request.getfixturevalue(model), dtype, every).result()
    assert found["none"].shape == (0, found["loop"].shape[1])
    for tokens in (4096, 300, "after NaN"):
        assert (found[tokens] * found["loop"]).sum(axis=1).min() >= LEAST_COSINE[dtype], tokens
    assert all(found["attributes"]), f"model runner V1 of vLLM {vllm_version()} has not {RUNNER_ATTRIBUTES}"


@EVERY
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param("bfloat16", 5e-3, marks=needs_bfloat16), ("float32", 1e-6)]
)
def test_scores_are_those_of_vllms_loop(
    dtype: str, tolerance: float, every: int, reranker_path: str, engine_process: Executor
) -> None:
    found = engine_process.submit(score_cases, reranker_path, dtype, 160, every).result()
    assert found["packed reused"] >= found["loop reused"] > 0
    assert np.ptp(found["loop"]) > 0.05
    for name in ("packed", "held", "small steps", "loop again"):
        assert np.abs(found[name] - found["loop"]).max() <= tolerance, name


@EVERY
def test_token_types_are_those_of_vllms_loop(
    every: int, engine_process: Executor, reference_process: Executor, tmp_path: Path
) -> None:
    path = reference_process.submit(cross_encoder, tmp_path).result()
    found = engine_process.submit(score_cases, path, "float32", 96, every).result()
    assert np.ptp(found["loop"]) > 0.05
    for name in ("packed", "held", "small steps"):
        assert np.abs(found[name] - found["loop"]).max() <= 1e-6, name


def test_an_engine_that_is_not_as_expected_is_refused(qwen_path: str, engine_process: Executor) -> None:
    said = engine_process.submit(refused_start, qwen_path).result()
    assert f"vLLM {VLLM} differs" in said
    assert "attn_groups" in said


@pytest.mark.parametrize("name", INTERNALS)
def test_vllm_has_the_internals(name: str, engine_process: Executor) -> None:
    missing = {*INTERNALS[name].split()} - engine_process.submit(parts_of, name).result()
    assert not missing, f"vLLM {vllm_version()}, written for {VLLM}: {name} has no {', '.join(sorted(missing))}"


@pytest.mark.parametrize("file", RUNNER_V2_SOURCES)
def test_model_runner_v2_has_the_internals(file: str) -> None:
    """By its source, since it does not start without Triton."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent.parent / file).read_text(encoding="utf-8")
    missing = [text for text in RUNNER_V2_SOURCES[file] if text not in source]
    assert not missing, f"vLLM {vllm_version()}, written for {VLLM}: {file} has no {missing}"


def test_groups_that_model_runner_v2_keeps_apart_are_found(engine_process: Executor) -> None:
    """Its layout, simulated: no KV cache, and the encoder's groups in the model's state."""
    assert engine_process.submit(access_encoder_of_v2).result() == (["encoder"], 0, 0)


def access_encoder_of_v2() -> tuple[list[Any], int, int]:
    import torch
    from vllm.v1.kv_cache_interface import EncoderOnlyAttentionSpec

    spec = EncoderOnlyAttentionSpec(block_size=16, num_kv_heads=1, head_size=64, dtype=torch.float32)
    runner = SimpleNamespace(
        get_model=lambda: None,
        device=torch.device("cpu"),
        attn_groups=[],
        kv_cache_config=SimpleNamespace(num_blocks=0, needs_kv_cache_zeroing=False),
        model_state=SimpleNamespace(encoder_attn_groups=[SimpleNamespace(kv_cache_spec=spec, name="encoder")]),
    )
    engine: Any = SimpleNamespace()
    place = engine
    for name in ("engine_core", "engine_core", "model_executor", "driver_worker", "worker"):
        setattr(place, name, SimpleNamespace())
        place = getattr(place, name)
    place.model_runner = runner
    access = RunnerAccess(engine)
    return [group.name for group in access.groups], access.block_size, access.blocks
