"""Checkpoints for one purpose each: a cross-encoder, a reranker that prefers one token, a converted reranker."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.testing import random_weights
from indexer.testing.checkpoints import minilm_path, qwen3_checkpoint

YES, NO = 9693, 2152

FEW_TOKENS = 10_000
"""Ordinary tokens of checkpoints that load in a tenth of the time; "yes" and "no" are among them."""

FEW = replace(random_weights.SMALL, ordinary_tokens=FEW_TOKENS)
"""Shape of checkpoints if a test needs no particular one."""

HAS_GPU = Path("/dev/nvidiactl").exists()
"""Whether this machine has an NVIDIA GPU."""

HAS_BFLOAT16 = "avx512bw" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
"""Whether this processor computes in bfloat16: with AVX2 only, 1.4 GFLOP/s were measured, against 157 in float32."""

FAST_DTYPE = "bfloat16" if HAS_BFLOAT16 else "float32"
"""dtype of checkpoints if a test needs no particular one."""

needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no arithmetic in bfloat16")


def cross_encoder(path: Path, activation: str | None = None) -> str:
    """A BERT cross-encoder with random weights and MiniLM's tokenizer, laid out as sentence-transformers'."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, num_labels=1,
        initializer_range=0.2,
    )  # fmt: skip
    if activation is not None:
        config.sentence_transformers = {"activation_fn": activation, "version": "5.0.0"}
    BertForSequenceClassification(config).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(Path(minilm_path()) / name, path)
    return str(path)


def marked_reranker(path: Path, marker: int) -> str:
    """A random-weight Qwen3 reranker that answers "yes" if the text has a certain token.

    Two components of the hidden state are reserved for it. Only the marker's embedding has the first. An attention head
    of the first layer, which weighs all tokens evenly, copies it into the second. The output head reads that as "yes".
    """
    from safetensors.torch import load_file, save_file

    qwen3_checkpoint(path, FEW, kind="reranker", dtype="float32")
    file = path / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        if name.endswith(("embed_tokens.weight",)):
            weight[:, :2] = 0
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[:2] = 0
    embeddings = weights["model.embed_tokens.weight"]
    embeddings[marker, 0] = 8.0
    embeddings[YES, 1] = 1.0
    layer = "model.layers.0.self_attn."
    size = random_weights.SMALL.head_dim
    weights[layer + "q_proj.weight"][:size] = 0
    weights[layer + "v_proj.weight"][0] = 0
    weights[layer + "v_proj.weight"][0, 0] = 1.0
    weights[layer + "o_proj.weight"][1, 0] = 50.0
    save_file(weights, file, metadata={"format": "pt"})
    return str(path)


def converted_reranker(original: str, path: Path) -> str:
    """A causal reranker as a classifier with one label, as the hub's conversions are."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(original, path, dirs_exist_ok=True)
    weights = load_file(path / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"].float()
    weights["score.weight"] = (embeddings[YES] - embeddings[NO]).unsqueeze(0).to(weights["model.norm.weight"].dtype)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "num_labels": 1}
    config |= {"pad_token_id": config["eos_token_id"], "architectures": ["Qwen3ForSequenceClassification"], **labels}
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def int8_checkpoint(original: str, path: Path) -> str:
    """Weights in int8 with a scale per row, for activations in int8: compressed-tensors' W8A8."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(original, path)
    weights = load_file(path / "model.safetensors")
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        exact = weights[name].float()
        scale = exact.abs().amax(1, keepdim=True) / 127
        weights[name] = (exact / scale).round().to(torch.int8)
        weights[f"{name}_scale"] = scale.to(torch.bfloat16)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    number = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": number | {"strategy": "channel", "dynamic": False},
        "input_activations": number | {"strategy": "token", "dynamic": True},
    }
    quantised = {"quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed"}
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = quantised | {"config_groups": {"group_0": group}, "ignore": ["lm_head"]}
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def tokenizer_only(root: Path, dimension: int) -> str:
    """MiniLM's tokenizer with weights that no test loads."""
    path = root / "model"
    path.mkdir()
    shutil.copy(Path(minilm_path()) / "tokenizer.json", path)
    config = json.loads((Path(minilm_path()) / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"hidden_size": dimension}))
    (path / "model.safetensors").write_bytes(b"none")
    return str(path)
