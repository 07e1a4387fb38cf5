"""Qwen3 checkpoints with random weights, to check arithmetic and speed, never relevance.

This needs only torch and safetensors, so that a machine with nothing but vLLM can make them.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


QWEN_VOCABULARY = 151936
"""Rows of Qwen3's embedding table; more than the tokenizer has tokens."""

ORDINARY_TOKENS = 151643
"""Qwen3's tokens before its control tokens; ``<|endoftext|>`` is the first of these."""

ROWS_BEYOND = QWEN_VOCABULARY - ORDINARY_TOKENS
"""Rows of the table for control tokens, other added ones, and none."""

Kind = Literal["embedding", "reranker"]


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Qwen3 model. Fewer ordinary tokens than Qwen's make checkpoints that load in less time."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    layers: int = 2
    tied: bool = True
    ordinary_tokens: int = ORDINARY_TOKENS

    @property
    def rows(self) -> int:
        """Rows of the embedding table."""
        return self.ordinary_tokens + ROWS_BEYOND


SMALL = Shape(hidden=256, heads=4, kv_heads=2, head_dim=64, intermediate=768, layers=4)

TRUE_SHAPES = {
    "0.6B": Shape(hidden=1024, heads=16, kv_heads=8, head_dim=128, intermediate=3072),
    "4B": Shape(hidden=2560, heads=32, kv_heads=8, head_dim=128, intermediate=9728),
    "8B": Shape(hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=12288, tied=False),
}
"""Qwen3-Embedding's shapes, with two of their layers."""

TRUE_LAYERS = {"0.6B": 28, "4B": 36, "8B": 36}
"""Layers of the models on the hub."""


def write_weights(
    path: str | Path,
    shape: Shape = SMALL,
    *,
    kind: Kind = "embedding",
    dtype: str = "bfloat16",
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """Writes weights and configuration of a Qwen3 model, laid out as on the hub; the tokenizer is not part of it.

    Args:
        path: Directory, made when missing.
        shape: Dimensions of the model.
        kind: ``embedding`` for the bare model, ``reranker`` for the causal language model.
        dtype: Torch dtype of the weights.
        seed: Seed of the weights.
        device: Torch device that draws them, which decides the values. A CPU core takes a minute for 8B weights.

    Returns:
        The directory.
    """
    import torch
    from safetensors.torch import save_file

    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    # One layout for both kinds: the embedding models on the hub leave the prefix out and have no head.
    prefix = "model." if kind == "reranker" else ""
    generator = torch.Generator(device).manual_seed(seed)
    weights = {
        prefix + name: _weight(name, dimensions, getattr(torch, dtype), generator)
        for name, dimensions in _qwen3_weights(shape)
    }
    if kind == "reranker" and not shape.tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, str(root / "model.safetensors"), metadata={"format": "pt"})
    write_config(root, shape, dtype)
    if kind == "embedding":
        _write_pooling(root, shape.hidden)
    return str(root)


def write_config(path: str | Path, shape: Shape, dtype: str = "bfloat16") -> str:
    """Writes only the configuration, which determines a model's cost.

    Returns:
        The directory.
    """
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "config.json", _qwen3_config(shape, dtype))
    return str(root)


def _qwen3_weights(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and dimensions of all weights but the head."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "embed_tokens.weight", (shape.rows, shape.hidden)
    yield "norm.weight", (shape.hidden,)
    for layer in range(shape.layers):
        block = {
            "input_layernorm": (shape.hidden,),
            "post_attention_layernorm": (shape.hidden,),
            "self_attn.q_proj": (queries, shape.hidden),
            "self_attn.k_proj": (keys, shape.hidden),
            "self_attn.v_proj": (keys, shape.hidden),
            "self_attn.o_proj": (shape.hidden, queries),
            "self_attn.q_norm": (shape.head_dim,),
            "self_attn.k_norm": (shape.head_dim,),
            "mlp.gate_proj": (shape.intermediate, shape.hidden),
            "mlp.up_proj": (shape.intermediate, shape.hidden),
            "mlp.down_proj": (shape.hidden, shape.intermediate),
        }
        yield from ((f"layers.{layer}.{name}.weight", dimensions) for name, dimensions in block.items())


def _weight(
    name: str, dimensions: tuple[int, ...], dtype: "torch.dtype", generator: "torch.Generator"
) -> "torch.Tensor":
    """Draws a tensor: norms around 1, small embeddings, matrices of a gain below 1 at any width.

    Vectors of different texts then have a cosine around 0.1, and bfloat16 moves a vector by less than 2e-4 in cosine.
    With a gain of 1, or sharper attention, rounding alone moves it by 1e-3 to 5e-2.
    """
    import torch

    mean = 1.0 if len(dimensions) == 1 else 0.0
    deviation = 0.1 if len(dimensions) == 1 else 0.02 if name == "embed_tokens.weight" else 0.4 * dimensions[1] ** -0.5
    empty = torch.empty(dimensions, dtype=dtype, device=generator.device)
    return empty.normal_(mean, deviation, generator=generator)


def _qwen3_config(shape: Shape, dtype: str) -> dict[str, Any]:
    """Content of ``config.json``."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": shape.ordinary_tokens,
        "eos_token_id": shape.ordinary_tokens,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 32768,
        "max_window_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": dtype,
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.rows,
    }


def _write_pooling(root: Path, hidden: int) -> None:
    """The sentence-transformers files of Qwen3-Embedding: last-token pooling, then unit norm."""
    modules = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    write_json(
        root / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
            for index, (name, path) in enumerate(modules)
        ],
    )
    (root / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
    write_json(root / "1_Pooling" / "config.json", pooling)


def write_json(path: Path, content: Any) -> None:
    """Writes a configuration file of a checkpoint."""
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def package_path(name: str) -> Path:
    """Directory of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"package {name} is not installed; install the extra that has it", name=name)
    return Path(spec.origin).parent
