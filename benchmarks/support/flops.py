"""The limit: a model's FLOPs per token, and the machine's rate of matrix products."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.fresh_process import apart
from indexer.inference.flops import model_flops

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


def checkpoint_flops(checkpoint: str | Path, lengths: Sequence[int]) -> float:
    """:func:`indexer.inference.flops.model_flops` of the Qwen3 model in a directory."""
    return model_flops(json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8")), lengths)


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
