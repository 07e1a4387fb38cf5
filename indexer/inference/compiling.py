"""Chooses whether engines compile the model, which takes longer than a short piece of work."""

from dataclasses import dataclass, replace
from typing import TypeVar

from indexer.inference.model import Model, Reranker
from indexer.progress import say

PAYS_SECONDS = 300.0
"""Seconds of work per engine from which compiling pays, before a run has measured it. Measured on one core: it takes
11 s of CPU and saves 3 % of MiniLM's time and 12 % of a 4-layer, 256-wide Qwen3's, so it pays after 90 to 370 s. On an
H100 a 0.6B model starts 40 s later and saves 14 %, so it pays after 290 s."""

CPU_SAVED, GPU_SAVED = 11.0 / PAYS_SECONDS, 0.14
"""Share of the work's time that compiling saves, by the same measurements."""

CPU_RATE, GPU_RATE = 1.5e11, 5e14
"""FLOP/s of a worker before the first run has measured it: a core in float32, and an H100 with a 0.6B model."""

QUERY_TOKENS, PAIR_TOKENS = 32, 512
"""Tokens of a query and of a pair, to estimate work before it is read."""

BYTES_PER_TOKEN = 4.0
"""Bytes of text per token of English; Chinese has about as many."""

CHOICES = frozenset({"enforce_eager", "compilation_config", "optimization_level"})
"""Engine arguments with which the settings choose themselves."""

ModelT = TypeVar("ModelT", Model, Reranker)


@dataclass(frozen=True)
class ExpectedWork:
    """Work before it is done.

    Attributes:
        tokens: Tokens of all of it.
        workers: Engines that share it.
        gpus: Whether they run on GPUs.
    """

    tokens: float
    workers: int
    gpus: bool

    def seconds(self, model: Model | Reranker) -> float:
        """Seconds for each engine, by the size of the model."""
        # A forward pass costs two FLOPs per weight and token: one per byte of bfloat16 weights, half in float32.
        return self.tokens * model.checkpoint.weight_bytes / self.workers / (GPU_RATE if self.gpus else CPU_RATE)

    def fitted(self, model: ModelT) -> ModelT:
        """The model, whose engines compile only if this is enough work, as :func:`fitted`."""
        return fitted(model, self.seconds(model), gpus=self.gpus)


def fitted(model: ModelT, seconds: float, cost: float | None = None, *, gpus: bool) -> ModelT:
    """The model, whose engines compile only if the expected work outweighs it.

    Args:
        model: The model. If its engine arguments say how to compile, they stay as they are.
        seconds: Expected work of an engine.
        cost: Seconds that compiling took in the last run that did; ``None`` before the first one.
        gpus: Whether the engines run on GPUs.
    """
    given = model.engine_settings
    if CHOICES & given.arguments.keys():
        return model
    pays = PAYS_SECONDS if cost is None else cost / (GPU_SAVED if gpus else CPU_SAVED)
    if seconds >= pays:
        say(f"engines compile the model first, since each is expected to work for {seconds:,.0f} s")
        return model
    say(f"engines start without compiling: it pays from {pays:,.0f} s of work on, {seconds:,.0f} s are expected")
    return replace(model, engine_settings=given.model_copy(update={"enforce_eager": True}))
