"""Spherical interpolation of checkpoints, tensor by tensor.

Qwen3-Embedding merges the checkpoints of its fine-tuning by slerp (Zhang et al. 2025, arXiv:2506.05176). A share of
the merged weights is then interpolated with the base, which keeps what the base knows (WiSE-FT, Wortsman et al. 2022,
arXiv:2109.01903).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PARALLEL = 1e-6
"""Angle in radians below which weights are interpolated linearly: the sine in the denominator is nothing."""


def slerp(first: "torch.Tensor", second: "torch.Tensor", share: float) -> "torch.Tensor":
    """Interpolates on the arc between two tensors, each read as one vector (Shoemake 1985).

    Args:
        first: Tensor of any shape and floating dtype.
        second: Another one of the same shape.
        share: 0 gives the first one, 1 the second one.

    Returns:
        float32, of their shape.
    """
    one, two = first.float(), second.float()
    if share in {0.0, 1.0}:
        return one if share == 0.0 else two
    angle = _angle(one, two)
    # Opposite tensors have no arc between them, and a tensor of zeros has no direction.
    if not PARALLEL <= angle <= math.pi - PARALLEL:
        return one + share * (two - one)
    return (math.sin((1 - share) * angle) * one + math.sin(share * angle) * two) / math.sin(angle)


def mean(tensors: Sequence["torch.Tensor"]) -> "torch.Tensor":
    """Merges tensors of equal weight: each next one takes its share of what is merged so far.

    Args:
        tensors: At least one, of one shape.

    Returns:
        float32, of that shape.
    """
    merged = tensors[0].float()
    for number, tensor in enumerate(tensors[1:], 2):
        merged = slerp(merged, tensor, 1 / number)
    return merged


def _angle(one: "torch.Tensor", two: "torch.Tensor") -> float:
    """Angle in radians; exact for tiny ones, where an arc cosine is not (Kahan 2006)."""
    long, wide = one.double().flatten(), two.double().flatten()
    norms = float(long.norm()), float(wide.norm())
    if not min(norms):
        return 0.0
    long, wide = long / norms[0], wide / norms[1]
    return 2 * math.atan2(float((long - wide).norm()), float((long + wide).norm()))
