"""The arguments an engine is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Packed = Literal["auto", "on", "off"]

SLOWEST = 10.0
"""Tokens per second below which an engine counts as hanging: the largest Qwen3-Embedding is faster on two cores."""


@dataclass(frozen=True)
class EngineSpec:
    """One model and how vLLM computes it.

    Attributes:
        path: Local directory of the checkpoint.
        dtype: dtype of the computation as vLLM names it.
        max_tokens: Cap on the ids of one sequence; for a generator, of a prompt and its continuation.
        arguments: vLLM engine arguments of ``[engine]`` by their own names. They override our defaults.
        overrides: vLLM arguments from ``[model]``: ``quantization``, ``hf_overrides``, ``pooler_config``.
        slowest: Tokens per second. A step that takes :data:`indexer.inference.start.GRACE_SECONDS` more than its tokens
            need at this rate ends the process.
        packed: Whether batches run in packed steps. ``auto``: if the start proves them; ``on``: always, otherwise an
            error; ``off``: vLLM's own loop.
        gpu_engines: Engines that share the GPU, so that each takes its part of the memory.
    """

    path: str
    dtype: str
    max_tokens: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    slowest: float = SLOWEST
    packed: Packed = "auto"
    gpu_engines: int = 1
