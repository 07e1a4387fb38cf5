"""Contenders in score mode: Transformers, stock vLLM, and this project's job from Parquet to Parquet."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contenders.peers import quiet_vllm
from benchmarks.support.workload import Outcome
from indexer.inference.pair_inputs import PAIR_PREFIX, PAIR_SUFFIX, PairTokenizer
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import RERANKER_OVERRIDES
from indexer.inference.tokenizer import INSTRUCTION
from indexer.reranking import run
from indexer.settings import ScoreSettings
from indexer.testing.corpora import random_texts

MAX_TOKENS = 512

BATCH = 16

YES, NO = 9693, 2152

DOCUMENT_WORDS = (10, 80)

QUERY_WORDS = (5, 15)

LENGTHS = {"20x40": (20, 40), "8x100": (8, 100)}
"""Number of queries and of documents per query, by name."""


@dataclass(frozen=True)
class PairWork:
    """The work of every contender: the checkpoint and the pairs.

    Attributes:
        root: Folder.
        checkpoint: Directory of the model.
        queries: Number of queries.
        each: Documents of each.
        dtype: Torch dtype the model runs in.
    """

    root: Path
    checkpoint: str
    queries: int
    each: int
    dtype: str

    @property
    def documents(self) -> int:
        """Number of pairs."""
        return self.queries * self.each

    @cached_property
    def pairs(self) -> list[dict[str, str]]:
        """Pairs of a query and a document of 10 to 80 words; pairs of one query are neighbours."""
        queries = random_texts(self.queries, words=QUERY_WORDS, seed=1)
        documents = random_texts(self.documents, words=DOCUMENT_WORDS, seed=2)
        return [{"query": queries[at // self.each], "document": text} for at, text in enumerate(documents)]

    @cached_property
    def ids(self) -> TokenSequences:
        """Token ids of their prompts."""
        tokenizer = PairTokenizer(self.checkpoint, MAX_TOKENS)
        return tokenizer.pairs(*([pair[name] for pair in self.pairs] for name in ("query", "document"))).ids

    @property
    def lengths(self) -> list[int]:
        """Tokens of each."""
        return list(self.ids.lengths.tolist())


def prepare(root: Path, checkpoint: str, dtype: str, lengths: str) -> PairWork:
    """Writes the pairs of one of the :data:`LENGTHS`."""
    work = PairWork(root, checkpoint, *LENGTHS[lengths], dtype)
    root.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(work.pairs), root / "pairs.parquet")
    return work


def transformers_arrival(work: PairWork, number: int) -> Outcome:  # noqa: ARG001  # every contender is told its round
    """The model card's way, batches of 16 in arrival order."""
    return _transformers(work, by_length=False)


def transformers_sorted(work: PairWork, number: int) -> Outcome:  # noqa: ARG001
    """The same, pairs sorted by length first."""
    return _transformers(work, by_length=True)


def _transformers(work: PairWork, *, by_length: bool) -> Outcome:
    """Scores all pairs and times it."""
    import torch
    from transformers import AutoModelForCausalLM

    begun = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = PairTokenizer(work.checkpoint, MAX_TOKENS)
    model: Any = AutoModelForCausalLM.from_pretrained(work.checkpoint, dtype=getattr(torch, work.dtype))
    model = model.eval().to(device)
    with torch.inference_mode():
        _probabilities(model, tokenizer.pairs(["warm"], ["up"]).ids.tolist())
        start = time.perf_counter()
        ids = tokenizer.pairs(*([pair[name] for pair in work.pairs] for name in ("query", "document"))).ids.tolist()
        if by_length:
            ids.sort(key=len)
        for at in range(0, len(ids), BATCH):
            _probabilities(model, ids[at : at + BATCH])
    return Outcome(sum(map(len, ids)), time.perf_counter() - start, start - begun, {})


def _probabilities(model: Any, ids: Sequence[Sequence[int]]) -> Any:
    """Probability of "yes" for each prompt, padded on the left."""
    import torch

    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(row)) + list(row) for row in ids], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=model.device)
    logits = model(input_ids=padded, attention_mask=mask, logits_to_keep=1).logits[:, -1, [NO, YES]]
    return torch.softmax(logits.float(), dim=1)[:, 1].cpu()


def stock_vllm(work: PairWork, number: int) -> Outcome:  # noqa: ARG001
    """vLLM after its documentation: ``LLM.score`` on texts in the model's template."""
    begun = time.perf_counter()
    quiet_vllm()
    from vllm import LLM

    queries = [f"{PAIR_PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: {pair['query']}\n" for pair in work.pairs]
    documents = [f"<Document>: {pair['document']}{PAIR_SUFFIX}" for pair in work.pairs]
    model: Any = LLM(
        work.checkpoint,
        runner="pooling",
        dtype=work.dtype,
        max_model_len=MAX_TOKENS,
        hf_overrides=RERANKER_OVERRIDES,
    )
    model.score(queries[:1], documents[:1], use_tqdm=False)
    start = time.perf_counter()
    model.score(queries, documents, use_tqdm=False)
    seconds = time.perf_counter() - start
    return Outcome(sum(work.lengths), seconds, start - begun, {})


def job(work: PairWork, number: int) -> Outcome:
    """From Parquet to Parquet; pairs of one query are neighbours, so that their common beginning is computed once."""
    settings = ScoreSettings(
        model={"name": work.checkpoint, "max_tokens": MAX_TOKENS, "dtype": work.dtype},
        pairs={"uri": str(work.root / "pairs.parquet"), "document_column": "document"},
        output={"uri": str(work.root / f"scores-{number}")},
        cluster={"address": "local"},
        run={"shard_pairs": work.each, "progress": "none"},
    )
    summary = run.run(settings)
    if summary["scored"] != work.documents:
        raise RuntimeError(f"{summary['scored']} of {work.documents} pairs were scored")
    stages = summary["stages"]
    # "open" counts as start-up: it reads the tokenizer and the weights, which every peer does before its clock starts.
    starting = sum(seconds for name, seconds in stages.items() if name in {"open", "connect", "start"})
    return Outcome(summary["tokens"], sum(stages.values()) - starting, starting, stages, summary["cached_tokens"])
