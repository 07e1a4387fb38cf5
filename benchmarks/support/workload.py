"""The work of every contender: one checkpoint, and one corpus as texts, as Parquet files and as token ids."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.inference.model import Model, open_model
from indexer.inference.sequences import TokenSequences
from indexer.settings import EngineSettings, ModelSettings
from indexer.testing.checkpoints import qwen3_checkpoint
from indexer.testing.corpora import random_texts
from indexer.testing.random_weights import SMALL, TRUE_LAYERS, TRUE_SHAPES, Kind

MAX_TOKENS = 4096
"""Cap on the tokens of a text; a checkpoint may take fewer."""

FILES = 6

TOKENS_PER_WORD = 2.4
"""Approximate tokens per word of :func:`indexer.testing.random_texts` under Qwen3's tokenizer."""

CHECKPOINTS = Path("data/checkpoints")
"""Folder of random weights. It never changes, since vLLM finds its compiled code by the path."""

SMALL_MODEL = "small"

WORDS = (10, 120)

LENGTHS = {
    "words": "10 to 120 words",
    "short": "10 to 50 tokens",
    "web": "100 to 500 tokens",
    "long": "2,048 tokens",
    "mixed": "log-normal, median 150 tokens, cut at 4,096",
}
"""Corpora by name. Token numbers of all but the first are approximate; results report the real ones."""

MEAN_TOKENS = {"words": 120, "short": 30, "web": 300, "long": 2048, "mixed": 240}
"""Approximate tokens of a document, by corpus."""


@dataclass(frozen=True)
class Outcome:
    """Result of one contender in one round.

    Attributes:
        tokens: Tokens of the texts, end token included, without padding.
        seconds: Seconds that the tokens took.
        start_seconds: Seconds before the first token, measured apart.
        stages: Seconds of parts of the work, if known.
        reused_tokens: Tokens that were not computed, because an earlier sequence began with the same ones.
    """

    tokens: int
    seconds: float
    start_seconds: float
    stages: dict[str, float]
    reused_tokens: int = 0


@dataclass(frozen=True)
class Work:
    """A prepared folder.

    Attributes:
        root: The folder.
        checkpoint: Directory of the model.
        documents: Number of documents.
        dtype: Torch dtype the model runs in.
        batch: Best batch of Transformers on this machine; 32 until it is tuned.
        attention: Best attention implementation of Transformers, likewise.
        engine: vLLM engine arguments and our own keys, for our contenders; vLLM's own peers get vLLM's.
    """

    root: Path
    checkpoint: str
    documents: int
    dtype: str
    batch: int = 32
    attention: str = "sdpa"
    engine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def corpus(self) -> str:
        """Folder of Parquet files with the columns id and text."""
        return str(self.root / "corpus")

    @cached_property
    def texts(self) -> list[str]:
        """The texts in corpus order."""
        return [str(text) for text in json.loads((self.root / "texts.json").read_text(encoding="utf-8"))]

    @cached_property
    def ids(self) -> TokenSequences:
        """Their token ids."""
        saved = np.load(self.root / "ids.npz")
        return TokenSequences(saved["ids"], saved["lengths"])

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [int(length) for length in np.load(self.root / "ids.npz")["lengths"]]

    @property
    def model(self) -> Model:
        """The model as the job runs it."""
        return open_model(ModelSettings(**self.model_settings), EngineSettings(**self.engine))

    @property
    def model_settings(self) -> dict[str, Any]:
        """Settings of the model."""
        return {"name": self.checkpoint, "max_tokens": self.max_tokens, "dtype": self.dtype}

    @cached_property
    def max_tokens(self) -> int:
        """Most tokens of a text: those of the checkpoint, :data:`MAX_TOKENS` at most."""
        own = open_model(ModelSettings(name=self.checkpoint, dtype=self.dtype), EngineSettings())
        return min(MAX_TOKENS, own.max_tokens)

    @property
    def vllm_arguments(self) -> dict[str, Any]:
        """Arguments of vLLM for peers that are vLLM."""
        given = EngineSettings(**self.engine).arguments
        return {"dtype": self.dtype, "max_model_len": self.max_tokens} | given


def checkpoint_of(model: str, kind: Kind, dtype: str) -> str:
    """Directory of a model: random weights for ``small``, ``0.6B``, ``4B`` and ``8B``, else the given directory."""
    if model != SMALL_MODEL and model not in TRUE_SHAPES:
        return model
    shape = SMALL if model == SMALL_MODEL else replace(TRUE_SHAPES[model], layers=TRUE_LAYERS[model])
    return qwen3_checkpoint(CHECKPOINTS.absolute() / f"{kind}-{model}-{dtype}", shape, kind=kind, dtype=dtype)


def prepare(root: Path, checkpoint: str, dtype: str, lengths: str, documents: int) -> Work:
    """Writes a corpus of one of the :data:`LENGTHS`, with about the tokens of ``documents`` documents of words."""
    count = max(FILES, documents * MEAN_TOKENS["words"] // MEAN_TOKENS[lengths])
    return write(Work(root, checkpoint, count, dtype), texts_of(lengths, count))


def write(work: Work, texts: Sequence[str]) -> Work:
    """Writes the texts in every form."""
    shutil.rmtree(work.root, ignore_errors=True)
    Path(work.corpus).mkdir(parents=True)
    rows = -(-work.documents // FILES)
    for number in range(FILES):
        part = range(number * rows, min((number + 1) * rows, work.documents))
        table = pa.table({"id": [f"{row:06d}" for row in part], "text": [texts[row] for row in part]})
        pq.write_table(table, f"{work.corpus}/{number}.parquet", row_group_size=250)
    ids = work.model.tokenizer.documents(texts).ids
    np.savez(work.root / "ids.npz", ids=ids.ids, lengths=ids.lengths)
    (work.root / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return work


def texts_of(lengths: str, documents: int) -> list[str]:
    """English-like texts of one of the :data:`LENGTHS`."""
    if lengths == "words":
        return random_texts(documents, words=WORDS)
    drawn = np.random.default_rng(0)
    tokens = {
        "short": drawn.integers(10, 51, documents),
        "web": drawn.integers(100, 501, documents),
        "long": np.full(documents, 2048),
        "mixed": np.clip(drawn.lognormal(np.log(150), 1.0, documents), 4, 4096),
    }[lengths]
    words = np.maximum(1, tokens / TOKENS_PER_WORD).astype(int)
    pool = " ".join(random_texts(200, words=(500, 500))).split(" ")
    starts = drawn.integers(0, len(pool) - int(words.max()), documents)
    return [" ".join(pool[start : start + count]) for start, count in zip(starts, words, strict=True)]
