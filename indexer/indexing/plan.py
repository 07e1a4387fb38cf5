"""Plans a run without doing it."""

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from indexer.cluster.connection import Cluster
from indexer.corpus.documents import Corpus, read_shard
from indexer.corpus.shards import Shard
from indexer.indexing import bounds, changes, scan, worklist
from indexer.indexing.changes import Changes
from indexer.indexing.job import Job, Rebuild, open_job
from indexer.inference import matryoshka
from indexer.publishing.gates import Gate
from indexer.settings import Settings
from indexer.storage.control import ControlStore

COUNTS = ("documents", "new", "changed", "unchanged", "deleted", "moved", "kept", "quarantined")
"""Counts of the comparison that a plan gives."""

SAMPLED_DOCUMENTS = 500
"""Documents tokenised to estimate a plan's tokens."""


def plan(settings: Settings, *, rebuild: Rebuild = False) -> dict[str, Any]:
    """Says what :func:`run` would do, and writes nothing into the index.

    Args:
        settings: The settings.
        rebuild: As for :func:`indexer.indexing.run`.

    Returns:
        Files, shards, documents, workers, bytes per table and all gates; tokens are estimated from a sample, seconds
        from the last run's rate. ``refused`` lists the gates that would refuse. JSON-ready.

    Raises:
        SettingsError: The settings contradict the model or the published index.
        CorpusError: The corpus cannot be read as configured.
    """
    job = open_job(settings, rebuild=rebuild)
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(settings.cluster, settings.engine.replicas_per_gpu) as cluster,
    ):
        job = replace(job, scratch=folder, store=ControlStore(settings.index.uri, settings.index.name, folder))
        unread = scan.scan(job, cluster, scan.start_reader(job))
        found = changes.compare(job, cluster, unread)
        gates = bounds.of_comparison(job, found, len(unread))
        return _described(job, found, gates) | {"workers": min(cluster.workers, _shards(job, found))}


def _shards(job: Job, found: Changes) -> int:
    """Number of shards to embed."""
    return sum(1 for _ in worklist.shards(job, found))


def _described(job: Job, found: Changes, gates: Sequence[Gate]) -> dict[str, Any]:
    """The plan, without the number of workers."""
    shards = list(worklist.shards(job, found))
    tokens, chunks = _estimate(job, shards)
    rate = _last_rate(job)
    itemsize = np.dtype(matryoshka.STORED[job.settings.index.precision]).itemsize
    return {
        "epoch": job.epoch,
        "files": len(job.corpus.files),
        **{name: found.counts[name] for name in COUNTS},
        "shards": len(shards),
        "to_embed": sum(shard.documents for shard in shards),
        "estimated_tokens": tokens,
        "estimated_chunks": chunks,
        "estimated_seconds": round(tokens / rate) if rate else None,
        "vector_bytes": {job.layout.table(width): chunks * width * itemsize for width in job.layout.widths},
        "gates": {gate.name: gate.measured for gate in gates},
        "refused": [str(gate) for gate in gates if not gate.holds],
        "conventions": job.model.conventions(),
    }


def in_words(planned: Mapping[str, Any]) -> str:
    """A plan for people, in lines."""
    counted = ", ".join(f"{planned[name]:,} {name}" for name in COUNTS if name != "documents")
    seconds = planned["estimated_seconds"]
    took = "the time is not known before the first run" if seconds is None else f"about {seconds:,} s as the last run"
    tables = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in planned["vector_bytes"].items())
    refused = "; ".join(planned["refused"])
    return "\n".join(
        [
            f"epoch      {planned['epoch']} from {planned['documents']:,} rows in {planned['files']:,} files",
            f"documents  {counted}",
            f"to embed   {planned['to_embed']:,} documents in {planned['shards']:,} shards; {took}",
            f"           about {planned['estimated_tokens']:,} tokens in {planned['estimated_chunks']:,} chunks",
            f"vectors    {tables}",
            f"workers    {planned['workers']}",
            f"gates      {f'would refuse: {refused}' if refused else 'hold'}",
        ]
    )


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
    return round(tokens.ids.tokens / size * total_bytes), round(chunks_per_document * total)


def _first_texts(corpus: Corpus, shard: Shard) -> list[str]:
    """The first texts of a shard, enough for an estimate."""
    texts: list[str] = []
    for documents in read_shard(corpus, shard):
        texts += documents.texts
        if len(texts) >= SAMPLED_DOCUMENTS:
            break
    return texts[:SAMPLED_DOCUMENTS]
