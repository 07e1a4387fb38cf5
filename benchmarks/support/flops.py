"""The limit: a model's FLOPs per token, and the machine's rate of matrix products."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.fresh_process import apart

SIDES = (512, 1024, 2048, 4096)

GPU_SIDES = (8192,)

SECONDS = 3.0

DTYPES = ("bfloat16", "float32")
"""dtypes in which the limit is measured; a benchmark uses the faster one by default."""


def faster(limit: Mapping[str, float]) -> str:
    """The dtype of the higher rate."""
    return max(limit, key=lambda dtype: limit[dtype])


def limits() -> dict[str, float]:
    """FLOPs per second by dtype, as :func:`matrix_rate` measures them."""
    return {dtype: apart(matrix_rate, dtype) for dtype in DTYPES}


def model_flops(checkpoint: str | Path, lengths: Sequence[int]) -> float:
    """FLOPs of one forward pass over sequences, a multiplication and an addition counting as two.

    Every matrix costs two per weight and token (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", table
    1). The embedding table, which is looked up, costs nothing. Causal attention costs 4 x heads x head_dim per layer
    and pair of tokens. A token attends to itself and every earlier one: n(n + 1)/2 pairs of n tokens. Norms, rotary
    positions and the softmax are left out, as in PaLM's model FLOPs utilisation (Chowdhery et al. 2022, appendix B).

    Args:
        checkpoint: Directory of a Qwen3 model; only its ``config.json`` is read.
        lengths: Tokens of each sequence.

    Returns:
        The sum over all sequences.
    """
    config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    per_layer = hidden * (2 * queries + 2 * keys) + 3 * hidden * config["intermediate_size"]
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    return float(2 * layers * per_layer * sum(lengths) + 4 * layers * queries * pairs)


def matrix_rate(dtype: str) -> float:
    """FLOPs per second of large square matrix products on the GPU, or on all cores without one.

    Args:
        dtype: Torch dtype of the factors.

    Returns:
        The best rate within several seconds, at the largest side whose product fits in them. A processor without
        arithmetic in bfloat16 takes a minute for a side of 4,096.
    """
    import torch

    device, sides = ("cuda", GPU_SIDES) if torch.cuda.is_available() else ("cpu", SIDES)
    rate = 0.0
    for side in sides:
        if rate and 2 * side**3 / rate > SECONDS:
            break
        rate = _product_rate(dtype, device, side)
    return rate


def _product_rate(dtype: str, device: str, side: int) -> float:
    """Best rate of products of one side, within the given seconds."""
    import torch

    left, right = (torch.randn(side, side, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        product: Any = left @ right
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
