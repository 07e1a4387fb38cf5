"""The arguments an engine is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Packed = Literal["auto", "on", "off"]

SLOWEST = 10.0
"""Tokens per second below which an engine hangs: the largest Qwen3-Embedding reaches more on two cores."""


@dataclass(frozen=True)
class EngineSpec:
    """One model and how vLLM computes it.

    Attributes:
        path: Local directory of the checkpoint.
        dtype: dtype of the computation as vLLM names it.
        max_tokens: Most ids of one sequence; for a generator of a prompt with what is written.
        arguments: vLLM engine arguments of ``[engine]`` by their own names. They go before our defaults.
        overrides: Those that stand for settings of ``[model]``: ``quantization``, ``hf_overrides``, ``pooler_config``.
        slowest: Tokens per second. A step that takes :data:`indexer.inference.start.GRACE_SECONDS` more than its tokens
            need at this rate ends the process.
        packed: Whether batches run in packed steps: ``auto`` where they are proven at the start, ``on`` or not at all,
            ``off`` for vLLM's own loop.
    """

    path: str
    dtype: str
    max_tokens: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    slowest: float = SLOWEST
    packed: Packed = "auto"
