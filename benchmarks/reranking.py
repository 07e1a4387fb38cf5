"""The scoring job against pure Transformers: pairs per second, as ratios from one run.

Every contender scores the same pairs with the same random-weight Qwen3 reranker in the same dtype, in alternation:

- ``arrival``: Transformers, batches of 16 in arrival order, padded, all cores;
- ``sorted``: the same, pairs sorted by length first;
- ``job``: from Parquet to Parquet, the pairs of a query together so that their shared beginning is computed once.

Start-up (imports, Ray, loading the model) is left out for each.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexer import scoring
from indexer.settings import ScoreSettings
from indexer.testing import qwen3_checkpoint, random_texts
from indexer.tokens import PairTokenizer

MAX_TOKENS = 512
BATCH = 16
YES, NO = 9693, 2152
DOCUMENT_WORDS = (10, 80)
QUERY_WORDS = (5, 15)


@dataclass(frozen=True)
class Work:
    """What every contender gets: the checkpoint and the pairs."""

    root: Path
    queries: int
    documents: int

    @property
    def checkpoint(self) -> str:
        """Directory of the model."""
        return str(self.root / "model")

    @property
    def pairs(self) -> list[dict[str, str]]:
        """Pairs, those of a query together."""
        queries = random_texts(self.queries, words=QUERY_WORDS, seed=1)
        documents = random_texts(self.queries * self.documents, words=DOCUMENT_WORDS, seed=2)
        return [{"query": queries[at // self.documents], "document": text} for at, text in enumerate(documents)]


def transformers_rate(work: Work, *, by_length: bool) -> float:
    """Pairs per second of the model card's way, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_transformers, work, by_length=by_length).result()


def _transformers(work: Work, *, by_length: bool) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = PairTokenizer(work.checkpoint, MAX_TOKENS)
    model = AutoModelForCausalLM.from_pretrained(work.checkpoint, dtype=torch.bfloat16).eval()
    pairs = work.pairs
    with torch.inference_mode():
        _probabilities(model, tokenizer.pairs(["warm"], ["up"]).ids)
        start = time.perf_counter()
        ids = tokenizer.pairs([pair["query"] for pair in pairs], [pair["document"] for pair in pairs]).ids
        if by_length:
            ids.sort(key=len)
        scores = [_probabilities(model, ids[at : at + BATCH]) for at in range(0, len(ids), BATCH)]
        seconds = time.perf_counter() - start
    return sum(map(len, scores)) / seconds


def _probabilities(model: Any, ids: list[list[int]]) -> Any:
    import torch

    longest = max(map(len, ids))
    padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    logits = model(input_ids=padded, attention_mask=mask, logits_to_keep=1).logits[:, -1, [NO, YES]]
    return torch.softmax(logits.float(), dim=1)[:, 1]


def job_rate(work: Work, number: int) -> tuple[float, float]:
    """Pairs per second of the job without start-up, and the share of tokens that were not computed again."""
    settings = ScoreSettings(
        model={"name": work.checkpoint, "max_tokens": MAX_TOKENS},
        pairs={"uri": str(work.root / "pairs.parquet"), "document_column": "document"},
        output={"uri": str(work.root / f"scores-{number}")},
        cluster={"address": "local"},
        run={"shard_pairs": work.documents, "progress": "none"},
    )
    summary = scoring.run(settings)
    if summary["scored"] != work.queries * work.documents:
        raise RuntimeError(f"{summary['scored']} pairs were scored")
    return summary["scored"] / summary["stages"]["score"], summary["cached_tokens"] / summary["tokens"]


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--queries", type=int, default=20)
    command.add_argument("--documents", type=int, default=40, help="documents per query, of 10 to 80 words")
    command.add_argument("--rounds", type=int, default=3, help="rounds of all contenders; medians are reported")
    arguments = command.parse_args()
    rates: dict[str, list[float]] = {"arrival": [], "sorted": [], "job": []}
    reused = 0.0
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), arguments.queries, arguments.documents)
        qwen3_checkpoint(work.checkpoint, kind="reranker")
        pq.write_table(pa.Table.from_pylist(work.pairs), work.root / "pairs.parquet")
        for number in range(arguments.rounds):
            rates["arrival"].append(transformers_rate(work, by_length=False))
            rates["sorted"].append(transformers_rate(work, by_length=True))
            rate, reused = job_rate(work, number)
            rates["job"].append(rate)
            print(f"round {number + 1}:", {name: round(values[-1], 1) for name, values in rates.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "pairs": arguments.queries * arguments.documents,
        "pairs_per_second": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "job_over_arrival": round(medians["job"] / medians["arrival"], 3),
        "job_over_sorted": round(medians["job"] / medians["sorted"], 3),
        "reused_tokens_share": round(reused, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
