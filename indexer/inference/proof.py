"""Proves at every start that packed steps give the results of vLLM's own loop; otherwise that loop is used."""

from typing import TYPE_CHECKING

import numpy as np

from indexer import fallbacks
from indexer.errors import EngineError
from indexer.inference.deadline import deadline
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.packed import PackedRunner
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import GRACE_SECONDS, failure_reason
from indexer.inference.step_loop import StepLoop

if TYPE_CHECKING:
    from vllm import LLMEngine

SEQUENCES = 64
"""Sequences of mixed lengths that both paths compute beside the canary."""

LONGEST = 300
"""Ids of the longest, which fills several blocks of the KV cache."""

LONG = 150
"""Cap on the ids of the others, so that the proof takes a second of CPU with a small model."""

STEPS = 3
"""Steps of the proof at least, so that it has two in flight as a run has; a GPU would take all its tokens in one."""

LEAST_COSINE = 0.9999
"""Least cosine between both paths' vectors of a sequence in float32. Equal kernels on other batches differ only by
rounding."""

LEAST_ROUNDED_COSINE = 0.9995
"""The same in 16 bits. On an H100 the 36 layers of a 4B and an 8B model with random weights came to a little less than
0.9999 in bfloat16, 28 layers to 0.9999998."""

MOST_DIFFERENCE = 0.01
"""Largest difference of both paths' scores, probabilities or logits, of a prompt."""


def proven(
    llm_engine: "LLMEngine",
    loop: StepLoop,
    spec: EngineSpec,
    width: int,
    canary: TokenSequences,
    second: np.ndarray | None,
) -> tuple[PackedRunner | None, str | None]:
    """Packed steps for an engine; otherwise ``None`` and the reason, with a progress line.

    Args:
        llm_engine: A started engine.
        loop: Its own loop.
        spec: The model and how it is computed.
        width: Components of a result, 1 for scores.
        canary: Token ids of some texts or pairs.
        second: Place of the document's first token in each, for models with token types.

    Raises:
        EngineError: ``spec.packed`` is ``on``, and packed steps are impossible or give other results; or vLLM's loop
            fails after they failed.
    """
    sequences, places = _mixed(canary, second, spec.max_tokens)
    expected = loop.run(sequences, width, places)
    packed: PackedRunner | None = None
    try:
        packed = PackedRunner(llm_engine, step_deadline=lambda tokens: deadline(GRACE_SECONDS + tokens / spec.slowest))
        least = LEAST_COSINE if spec.dtype == "float32" else LEAST_ROUNDED_COSINE
        reason = _difference(expected, _in_steps(packed, sequences, places), least)
    except Exception as error:  # noqa: BLE001  # whatever the error, vLLM's loop can run the model
        reason = failure_reason(error)
    if reason is None:
        return packed, None
    if spec.packed == "on":
        raise EngineError(f"engine.packed is on, and packed steps cannot run this model: {reason}; set it to auto")
    try:
        # A failed kernel may leave the GPU unusable for this process.
        loop.run(canary, width, second)
    except Exception as error:
        raise EngineError(f'packed steps broke the engine ({reason}); set engine.packed = "off"') from error
    fallbacks.take(f"vLLM's own step loop runs the model, since packed steps cannot: {reason}")
    return None, reason


def _in_steps(packed: PackedRunner, sequences: TokenSequences, places: np.ndarray | None) -> np.ndarray:
    """Results of packed steps that are smaller than a run's."""
    whole = packed.step_tokens
    packed.step_tokens = min(whole, max(sequences.tokens // STEPS, int(sequences.lengths.max())))
    try:
        return packed.run(sequences, places)
    finally:
        packed.step_tokens = whole


def _difference(expected: np.ndarray, found: np.ndarray, least_cosine: float) -> str | None:
    """The largest difference in words if it is above the limit, otherwise ``None``."""
    if not np.isfinite(found).all():
        return "they give values that are not finite"
    if expected.shape[1] == 1:
        most = float(np.abs(found - expected).max())
        return None if most <= MOST_DIFFERENCE else f"a score differs by {most:.4f}, allowed {MOST_DIFFERENCE}"
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    least = float(((found * expected).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    return None if least >= least_cosine else f"a vector's cosine is {least:.6f}, allowed {least_cosine}"


def _mixed(
    canary: TokenSequences, second: np.ndarray | None, max_tokens: int
) -> tuple[TokenSequences, np.ndarray | None]:
    """The canary and sequences of many lengths from its ids. They share its beginning, as pairs of one query do."""
    drawn = np.random.default_rng(0)
    lengths = np.append(np.geomspace(1, min(LONG, max_tokens), SEQUENCES - 1), min(LONGEST, max_tokens)).astype(int)
    rows, places = list(canary), [] if second is None else second.tolist()
    for length in lengths:
        stem = canary[int(drawn.integers(len(canary)))]
        kept = int(drawn.integers(0, min(length, len(stem)) + 1)) if second is None else min(length, len(stem))
        rows.append(np.append(stem[:kept], drawn.choice(canary.ids, length - kept)).astype(np.int32))
        if second is not None:
            places.append(int(drawn.integers(0, length)))
    return TokenSequences.of(rows), None if second is None else np.array(places, np.int32)
