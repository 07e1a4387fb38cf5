"""Proves at every start that packed steps give the results of vLLM's own loop; otherwise that loop is used."""

from typing import TYPE_CHECKING

import numpy as np

from indexer import fallbacks
from indexer.errors import EngineError
from indexer.inference.checkpoint import is_unbounded
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
"""Largest difference of both paths' logits of a prompt in float32, as a part of the logits' spread or of 1 if that is
more. Probabilities are compared by their logits: of texts that answer nothing all are near 0, whatever the layout."""

# A cosine of 0.9999 is a hidden state that is sqrt(2 * (1 - 0.9999)) = 1.4 % off, one of 0.9995 3.2 %. A logit is the
# state's product with one row of weights, so chance moves it by that part of the logits' standard deviation, and among
# 66 prompts by at most three times as much. Their spread is some five deviations: 3 * 3.2 % / 5 = 2 %. Where states are
# alike, the spread is less and the error is not. In a wrong layout a prompt gets about another one's logit.
MOST_ROUNDED_DIFFERENCE = 0.05
"""The same in 16 bits."""

LEAST_PROBABILITY = 1e-6
"""Probabilities nearer to 0 or 1 count as this far: float32 keeps two digits of what is left to 1."""


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
    reason: str | None
    try:
        packed = PackedRunner(llm_engine, step_deadline=lambda tokens: deadline(GRACE_SECONDS + tokens / spec.slowest))
        found, is_exact = _in_steps(packed, sequences, places), spec.dtype == "float32"
        if not np.isfinite(found).all():
            reason = "they give values that are not finite"
        elif width == 1:
            reason = _score_difference(expected, found, is_logit=is_unbounded(spec.path), is_exact=is_exact)
        else:
            reason = _cosine_difference(expected, found, LEAST_COSINE if is_exact else LEAST_ROUNDED_COSINE)
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


def _score_difference(expected: np.ndarray, found: np.ndarray, *, is_logit: bool, is_exact: bool) -> str | None:
    """The largest difference of scores in words if it is above the limit, otherwise ``None``."""
    known, seen = (expected, found) if is_logit else (_logits(expected), _logits(found))
    most = (MOST_DIFFERENCE if is_exact else MOST_ROUNDED_DIFFERENCE) * max(1.0, float(np.ptp(known)))
    difference = float(np.abs(seen - known).max())
    return None if difference <= most else f"a logit differs by {difference:.4f}, allowed {most:.4f}"


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Logits of probabilities, float64."""
    bounded = np.clip(probabilities.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.log(bounded / (1 - bounded))


def _cosine_difference(expected: np.ndarray, found: np.ndarray, least_cosine: float) -> str | None:
    """The least cosine of vectors in words if it is below the limit, otherwise ``None``."""
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
