"""FLOPs of a model's forward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

QWEN3_KEYS = frozenset(
    {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"}
)
"""Keys of a ``config.json`` that the formula needs."""


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether the formula of :func:`model_flops` holds for a model, by its ``config.json``."""
    return config.get("model_type") == "qwen3" and config.keys() >= QWEN3_KEYS


def model_flops(config: Mapping[str, Any], lengths: Sequence[int]) -> float:
    """FLOPs of one forward pass over sequences, a multiplication and an addition counting as two.

    Every matrix costs two per weight and token (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", table
    1). The embedding table, which is looked up, costs nothing. Causal attention costs 4 x heads x head_dim per layer
    and pair of tokens. A token attends to itself and every earlier one: n(n + 1)/2 pairs of n tokens. Norms, rotary
    positions and the softmax are left out, as in PaLM's model FLOPs utilisation (Chowdhery et al. 2022, appendix B).

    Args:
        config: ``config.json`` of a Qwen3 model.
        lengths: Tokens of each sequence.

    Returns:
        The sum over all sequences.
    """
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    per_layer = hidden * (2 * queries + 2 * keys) + 3 * hidden * config["intermediate_size"]
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    return float(2 * layers * per_layer * sum(lengths) + 4 * layers * queries * pairs)
