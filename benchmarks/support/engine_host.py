"""Host cost of the engine: CPU time per sequence of vLLM's step loop and of packed steps, without a forward pass.

The model's forward pass is replaced by a tensor that exists already. Attention metadata, pooling, copies and all
Python around them are the real ones. So is the tokenizer.
"""

import gc
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from unittest.mock import patch

import numpy as np

from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.packed import PackedRunner
from indexer.inference.packed_model import RunnerAccess
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import start_engine
from indexer.inference.step_loop import StepLoop
from indexer.testing.checkpoints import qwen3_checkpoint
from indexer.testing.random_weights import SMALL

LENGTHS = (16, 50, 100, 500, 2000)

TEXT_LENGTHS = (50, 100, 500, 2000)

STEP_TOKENS = 32_768
"""Tokens of a step: as many as a GPU is given, which holds the longest sequence of Qwen3-Embedding."""

HIDDEN = 1024
"""Width of Qwen3-Embedding-0.6B, because the results' copies follow it."""

TOKENS = 1_500_000
"""Tokens of a measurement, for packed steps; the loop, which is slower, has a tenth."""

REPEATS = 3

TOKENS_PER_WORD = 1.25
"""Of Python's documentation, with its code."""

Costs = dict[str, float]
"""Microseconds of CPU per sequence, by tokens of a sequence."""


def engine_costs(root: Path) -> dict[str, Costs]:
    """CPU time per sequence of both ways through an engine, by length, as ``loop`` and ``packed``.

    Args:
        root: Folder for the checkpoint, which has Qwen3-Embedding-0.6B's width and one layer.
    """
    import torch

    torch.set_num_threads(1)  # no work in threads whose time would be missed
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    path = qwen3_checkpoint(root / "engine-model", replace(SMALL, hidden=HIDDEN, layers=1))
    arguments = {"max_num_batched_tokens": STEP_TOKENS, "max_num_seqs": STEP_TOKENS // 16, "enforce_eager": True}
    engine = start_engine(EngineSpec(path, "bfloat16", STEP_TOKENS, arguments), "embed")
    model = RunnerAccess(engine).model
    ready = torch.ones((STEP_TOKENS, HIDDEN), dtype=torch.bfloat16)
    model.forward = lambda input_ids, **_: ready[: len(input_ids)]
    loop, packed = StepLoop(engine, "embed", 10.0), PackedRunner(engine, step_tokens=STEP_TOKENS)
    costs: dict[str, Costs] = {"loop": {}, "packed": {}}
    for length in LENGTHS:
        few, many = _sequences(length, TOKENS // 10), _sequences(length, TOKENS)
        costs["loop"][str(length)] = _microseconds(partial(loop.run, few, HIDDEN), len(few))
        packed.forget()
        costs["packed"][str(length)] = _microseconds(partial(packed.run, many), len(many))
    return costs


def tokenise_costs(root: Path) -> dict[str, Costs]:
    """CPU time per document of tokenising, by tokens, as ``ours`` and ``tokenizers``.

    ``ours`` makes whole batches of ids as the job does, by fastokens. ``tokenizers`` is the same with the reference.
    """
    tokenizer = EmbedTokenizer(qwen3_checkpoint(root / "tokenizer-model"), max_tokens=STEP_TOKENS)
    costs: dict[str, Costs] = {"ours": {}, "tokenizers": {}}
    for length in TEXT_LENGTHS:
        texts = _texts(round(length / TOKENS_PER_WORD))
        costs["ours"][str(length)] = _microseconds(partial(tokenizer.documents, texts), len(texts))
        with patch("indexer.inference.tokenizer.fast_tokenizer", return_value=None):
            costs["tokenizers"][str(length)] = _microseconds(partial(tokenizer.documents, texts), len(texts))
    return costs


def _sequences(length: int, tokens: int) -> TokenSequences:
    """Random sequences of one length."""
    drawn = np.random.default_rng(length).integers(0, 100_000, (tokens // length, length), np.int32)
    return TokenSequences(drawn.reshape(-1), np.full(len(drawn), length, np.int32))


def _texts(words: int) -> list[str]:
    """Python's documentation, as far as every installation has it, in texts of so many words: 465 kB."""
    parts = " ".join(topics[name] for name in sorted(topics)).split(" ")
    return [" ".join(parts[at : at + words]) for at in range(0, len(parts) - words, words)]


def _microseconds(work: Callable[[], Any], count: int) -> float:
    """CPU time of this process per item, the least of some repeats after one to warm up."""
    work()
    times = []
    for _ in range(REPEATS):
        gc.collect()
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return round(min(times) / count * 1e6, 2)
