"""Every engine proves packed steps against vLLM's own loop when it starts, and takes the loop where they differ."""

from concurrent.futures import Executor
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


def test_scores_that_differ_are_seen() -> None:
    given = np.array([[0.1], [0.9]], np.float32)
    assert proof._difference(given, given + 0.001, proof.LEAST_COSINE) is None
    assert proof._difference(given, given + 0.1, proof.LEAST_COSINE) == "a score differs by 0.1000, allowed 0.01"
    assert proof._difference(given, given * np.nan, proof.LEAST_COSINE) == "they give values that are not finite"


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
