"""Estimates what shards will take: tokens, seconds, GPU-hours, money."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from indexer.corpus.documents import Corpus, read_shard
from indexer.corpus.shards import Shard
from indexer.errors import RefusedError, SettingsError
from indexer.indexing import worklist
from indexer.indexing.changes import Changes
from indexer.indexing.cost import gpu_hours_per_token
from indexer.indexing.job import Job
from indexer.inference.flops import is_known, model_flops
from indexer.reporting.record import SECONDS_PER_HOUR
from indexer.reporting.runs import NIGHTS
from indexer.storage.description import RunTotals

SAMPLED_DOCUMENTS = 500
"""Documents tokenised to estimate tokens."""

SHARE_OF_LIMIT = 0.4
"""Share of ``run.gpu_tflops`` that a first run is taken to reach; later ones are measured. Packed steps of a 0.6B model
reached 0.41 to 0.44 of an H100's 990 TFLOP/s."""

TERA = 1e12

WEEK = 7
"""Latest runs whose rates bound the time of the next one."""


@dataclass(frozen=True)
class Estimate:
    """What shards will take.

    Attributes:
        tokens: Tokens to embed. ``chunks`` likewise.
        seconds: At the last run's rate; ``None`` before the first one.
        gpu_hours: By the last run's tokens and GPU-hours if it had GPUs, else by the model's FLOPs; ``None`` if neither
            is known.
        money: GPU-hours at ``run.gpu_hour_price``; ``None`` if either is not known.
        basis: What the GPU-hours were estimated by.
        seconds_range: At the highest and the lowest rate of the last runs; ``None`` before the first one.
    """

    tokens: int
    chunks: int
    seconds: float | None
    gpu_hours: float | None
    money: float | None
    basis: str
    seconds_range: tuple[float, float] | None = None


def of_shards(job: Job, shards: Sequence[Shard]) -> Estimate:
    """Estimates what shards will take, from a sample of their texts."""
    tokens, chunks = _tokens(job, shards)
    runs = list(islice(_runs(job), WEEK))
    last = runs[0] if runs else None
    took = [tokens / run.tokens_per_second for run in runs]
    hours, basis = _gpu_hours(job, tokens, chunks, last)
    price = job.settings.run.gpu_hour_price
    money = None if hours is None or price is None else hours * price
    bounds = (min(took), max(took)) if took else None
    return Estimate(tokens, chunks, took[0] if took else None, hours, money, basis, bounds)


def left_shards(job: Job, found: Changes) -> list[Shard]:
    """Shards that no earlier run has staged."""
    staged = job.store.receipts(job.epoch).ids()
    return [shard for shard in worklist.shards(job, found) if shard.shard_id not in staged]


def refuse_above(estimate: Estimate, budget: float) -> None:
    """Refuses work that would cost more than a budget.

    Raises:
        RefusedError: It would.
        SettingsError: Its cost is not known.
    """
    if estimate.money is None:
        raise SettingsError(
            "--budget: what the run would cost is not known; set run.gpu_hour_price and, before the first run on "
            "GPUs, run.gpu_tflops, from which it is estimated for Qwen3"
        )
    if estimate.money > budget:
        raise RefusedError(
            f"the run would cost about {estimate.money:,.2f} ({estimate.gpu_hours:,.3g} GPU-hours by "
            f"{estimate.basis}), --budget allows {budget:,.2f}: nothing was started"
        )


def last_run(job: Job) -> RunTotals | None:
    """The last of some runs that embedded something."""
    return next(_runs(job), None)


def _runs(job: Job) -> Iterator[RunTotals]:
    """Those of the latest runs that embedded something, the newest first."""
    runs = (epoch.description.run for epoch in islice(job.store.newest_first(), NIGHTS))
    return (run for run in runs if run.tokens_per_second)


def _gpu_hours(job: Job, tokens: int, chunks: int, last: RunTotals | None) -> tuple[float | None, str]:
    """GPU-hours and what they are estimated by."""
    if not tokens:
        return 0.0, "nothing to embed"
    # A run on CPUs, or an epoch that does not record GPUs, tells nothing of GPU-hours: 0 would pass every budget.
    if last is not None and last.gpus:
        return tokens * gpu_hours_per_token(last), "the last run's rate"
    limit, config = job.settings.run.gpu_tflops, job.model.checkpoint.config
    if limit is None or not is_known(config):
        return None, "nothing: no run on GPUs has been measured"
    flops = chunks * model_flops(config, [round(tokens / chunks)])
    return flops / (limit * TERA * SHARE_OF_LIMIT) / SECONDS_PER_HOUR, f"{SHARE_OF_LIMIT:.0%} of run.gpu_tflops"


def _tokens(job: Job, shards: Sequence[Shard]) -> tuple[int, int]:
    """Tokens and chunks of the shards, from the ratio to text bytes in a few of them."""
    sampled = random.Random(0).sample(shards, min(len(shards), 3))  # noqa: S311  # a sample, not a secret
    documents = [texts for shard in sampled for texts in _first_texts(job.corpus, shard)]
    tokens = job.model.tokenizer.documents(documents)
    size = max(1, sum(len(text.encode()) for text in documents))
    total_bytes, total = sum(shard.text_bytes for shard in shards), sum(shard.documents for shard in shards)
    chunks_per_document = len(tokens.ids) / max(1, len(documents))
    return round(tokens.ids.tokens / size * total_bytes), round(chunks_per_document * total)


def _first_texts(corpus: Corpus, shard: Shard) -> list[str]:
    """The first texts of a shard, enough for an estimate."""
    texts: list[str] = []
    for documents in read_shard(corpus, shard):
        texts += documents.texts
        if len(texts) >= SAMPLED_DOCUMENTS:
            break
    return texts[:SAMPLED_DOCUMENTS]
