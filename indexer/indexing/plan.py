"""What a run would do, without doing it."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from indexer.cluster.connection import Cluster
from indexer.corpus.documents import Corpus, read_shard
from indexer.corpus.shards import Shard
from indexer.indexing import changes, scan, worklist
from indexer.indexing.job import Job, open_job
from indexer.inference import matryoshka
from indexer.settings import Settings

SAMPLED_DOCUMENTS = 500
"""Documents tokenised to estimate a plan's tokens."""


def plan(settings: Settings, *, rebuild: bool = False) -> dict[str, Any]:
    """Says what :func:`run` would do, and does nothing but record digests of the files.

    Args:
        settings: The settings.
        rebuild: As for :func:`indexer.indexing.run`.

    Returns:
        Files, shards, documents, tokens by a sampled estimate, seconds at the last run's rate, bytes per table,
        workers; JSON-ready.

    Raises:
        SettingsError: The settings contradict the model or the published index.
        CorpusError: The corpus cannot be read as configured.
    """
    job = open_job(settings, rebuild=rebuild)
    reader = scan.start_reader(job)
    with Cluster(settings.cluster, settings.engine.replicas_per_gpu) as cluster:
        found = changes.compare(job, cluster, scan.scan(job, cluster, reader))
        workers = cluster.workers
    shards = list(worklist.shards(job, found))
    documents = sum(shard.documents for shard in shards)
    tokens, chunks = _estimate(job, shards)
    rate = _last_rate(job)
    itemsize = np.dtype(matryoshka.STORED[settings.index.precision]).itemsize
    return {
        "epoch": job.epoch,
        "files": len(job.corpus.files),
        **{
            name: found.counts[name]
            for name in ("documents", "new", "changed", "unchanged", "deleted", "moved", "quarantined")
        },
        "shards": len(shards),
        "to_embed": documents,
        "estimated_tokens": tokens,
        "estimated_chunks": chunks,
        "estimated_seconds": round(tokens / rate) if rate else None,
        "vector_bytes": {job.layout.table(width): chunks * width * itemsize for width in job.layout.widths},
        "workers": min(workers, len(shards)),
    }


def _last_rate(job: Job) -> float:
    """Tokens per second of the last run that embedded something, 0 where there was none."""
    for number in reversed(job.store.epoch_numbers()):
        rate = job.store.epoch(number).description.run.tokens_per_second
        if rate:
            return rate
    return 0.0


def _estimate(job: Job, shards: Sequence[Shard]) -> tuple[int, int]:
    """Tokens and chunks of the shards, from the ratio to text bytes in a few of them."""
    sampled = random.Random(0).sample(shards, min(len(shards), 3))  # noqa: S311  # a sample, not a secret
    documents = [texts for shard in sampled for texts in _first_texts(job.corpus, shard)]
    tokens = job.model.tokenizer.documents(documents)
    size = max(1, sum(len(text.encode()) for text in documents))
    total_bytes, total = sum(shard.text_bytes for shard in shards), sum(shard.documents for shard in shards)
    chunks_per_document = len(tokens.ids) / max(1, len(documents))
    return round(sum(map(len, tokens.ids)) / size * total_bytes), round(chunks_per_document * total)


def _first_texts(corpus: Corpus, shard: Shard) -> list[str]:
    texts: list[str] = []
    for documents in read_shard(corpus, shard):
        texts += documents.texts
        if len(texts) >= SAMPLED_DOCUMENTS:
            break
    return texts[:SAMPLED_DOCUMENTS]
