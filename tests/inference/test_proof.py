"""Every engine proves packed steps against vLLM's own loop when it starts, and takes the loop where they differ."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from indexer import fallbacks
from indexer.errors import EngineError
from indexer.inference import proof
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.engine import Engine
from indexer.inference.engine_spec import EngineSpec, Packed
from indexer.inference.packed import PackedRunner
from indexer.inference.packed_model import PackedModel
from indexer.inference.sequences import TokenSequences
from indexer.testing import corpora


def started(path: str, packed: Packed) -> tuple[Engine, TokenSequences]:
    """An engine, and what it is tried with."""
    ids = EmbedTokenizer(path, 128).documents(corpora.random_texts(40, words=(1, 60))).ids
    return Engine(EngineSpec(path, "float32", 128, {"enforce_eager": True}, packed=packed), ids[:3]), ids


def both_ways(path: str) -> dict[str, Any]:
    """Vectors of an engine that proved packed steps, of one that finds faults, and of one that cannot use them."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        launch = PackedModel.launch
        tokens: list[int] = []
        patch.setattr(PackedModel, "launch", lambda model, step: tokens.append(len(step.ids)) or launch(model, step))
        engine, ids = started(path, "auto")
        found["tokens of the proof's steps"] = list(tokens)
        tokens.clear()
        found["auto"], found["way back"] = engine.embed(ids), engine.way_back
        found["tokens of a run's steps"] = tokens
    with pytest.MonkeyPatch.context() as patch:
        real = PackedRunner.run
        patch.setattr(PackedRunner, "run", lambda *given: _turned(real(*given)))
        engine, _ = started(path, "auto")
        found["turned"], found["turned back"] = engine.embed(ids), engine.way_back
        with pytest.raises(EngineError) as refused:
            started(path, "on")
        found["on"] = str(refused.value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedRunner, "__init__", lambda *_, **__: 1 / 0)
        engine, _ = started(path, "auto")
        found["loop"], found["broken back"] = engine.embed(ids), engine.way_back
    found["told"] = fallbacks.taken()
    return found


def _turned(vectors: np.ndarray) -> np.ndarray:
    """One of the vectors turned by an angle whose cosine is 0.99."""
    across = np.roll(vectors[-1], 1)
    across -= (across @ vectors[-1]) * vectors[-1]
    vectors[-1] = 0.99 * vectors[-1] + np.sqrt(1 - 0.99**2) * across / np.linalg.norm(across)
    return vectors


def test_an_engine_that_differs_takes_the_loop(qwen_path: str, engine_process: Executor) -> None:
    found = engine_process.submit(both_ways, qwen_path).result()
    assert found["way back"] is None
    assert len(found["tokens of the proof's steps"]) >= proof.STEPS, "two are in flight on a GPU"
    assert max(found["tokens of a run's steps"]) > max(found["tokens of the proof's steps"])
    assert (found["auto"] * found["loop"]).sum(axis=1).min() >= 0.99999
    assert found["turned back"] == "a vector's cosine is 0.990000, allowed 0.9999"
    assert np.array_equal(found["turned"], found["loop"])
    assert found["broken back"] == "ZeroDivisionError: division by zero"
    whys = [found["turned back"], found["broken back"]]
    told = [f"vLLM's own step loop runs the model, since packed steps cannot: {why}" for why in whys]
    assert set(told) <= set(found["told"]), "the driver hears of it"
    assert "engine.packed is on" in found["on"]
    assert "cosine is 0.9900" in found["on"]


class ScoreLoop:
    """vLLM's loop of a reranker. The texts answer nothing, so that all its logits are far below 0."""

    is_logit = False

    def run(self, sequences: TokenSequences, *_: Any) -> np.ndarray:
        logits = np.random.default_rng(len(sequences)).normal(-8, 1, (len(sequences), 1))
        return (logits if self.is_logit else 1 / (1 + np.exp(-logits))).astype(np.float32)


class LogitLoop(ScoreLoop):
    is_logit = True


def scored(patch: pytest.MonkeyPatch, folder: Path, loop: ScoreLoop, dtype: str, change: Callable[..., Any]) -> str:
    """Why packed steps are not used whose logits are changed so; empty if they are."""

    class Changed(Rounding):
        def run(self, sequences: TokenSequences, places: Any) -> np.ndarray:  # noqa: ARG002
            known = loop.run(sequences).astype(np.float64)
            changed = change(known if loop.is_logit else np.log(known / (1 - known)))
            return (changed if loop.is_logit else 1 / (1 + np.exp(-changed))).astype(np.float32)

    activation = "torch.nn.modules.linear.Identity" if loop.is_logit else "torch.nn.Sigmoid"
    (folder / "config.json").write_text(activation)
    patch.setattr(proof, "PackedRunner", Changed)
    canary = TokenSequences.of([np.arange(20, dtype=np.int32)] * 2)
    spec = EngineSpec(str(folder), dtype, 128)
    return proof.proven(cast("Any", None), cast("Any", loop), spec, 1, canary, None)[1] or ""


def rounded(logits: np.ndarray) -> np.ndarray:
    """What an error of 3.2 % of the hidden state, in a direction of chance, makes of logits."""
    return logits + np.random.default_rng(1).normal(0, 0.032 * logits.std(), logits.shape)


@pytest.mark.parametrize("loop", [ScoreLoop(), LogitLoop()])
def test_scores_of_a_wrong_layout_are_seen_and_rounding_is_none(
    loop: ScoreLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    why = partial(scored, monkeypatch, tmp_path, loop)
    assert not why("float32", lambda logits: logits + 0.001)
    assert "a logit differs by" in why("float32", rounded)
    for dtype in ("bfloat16", "float16"):
        assert not why(dtype, rounded)
        assert not why(dtype, lambda logits: logits)
        assert "a logit differs by" in why(dtype, lambda logits: np.roll(logits, 1)), "each has its neighbour's place"
        assert why(dtype, lambda logits: logits * np.nan) == "they give values that are not finite"


class Rounding:
    """A runner of packed steps whose vectors have a cosine of 0.9998 to vLLM's."""

    step_tokens = 512

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def run(self, sequences: TokenSequences, places: Any) -> np.ndarray:  # noqa: ARG002
        return np.tile(np.array([0.9998, np.sqrt(1 - 0.9998**2)], np.float32), (len(sequences), 1))


class Loop:
    """vLLM's step loop."""

    def run(self, sequences: TokenSequences, *_: Any) -> np.ndarray:
        return np.tile(np.array([1, 0], np.float32), (len(sequences), 1))


@pytest.mark.parametrize(("dtype", "is_used"), [("float32", False), ("bfloat16", True), ("float16", True)])
def test_rounding_of_16_bits_is_no_fault(dtype: str, is_used: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    monkeypatch.setattr(proof, "PackedRunner", Rounding)
    spec = EngineSpec("model", dtype, 128)
    canary = TokenSequences.of([np.arange(20, dtype=np.int32)] * 2)
    runner, reason = proof.proven(cast("Any", None), cast("Any", Loop()), spec, 2, canary, None)
    assert (runner is not None) is is_used
    assert reason == (None if is_used else "a vector's cosine is 0.999800, allowed 0.9999")
