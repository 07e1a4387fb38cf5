"""Plans a run without doing it."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from indexer.cluster.connection import Cluster
from indexer.errors import RefusedError
from indexer.indexing import bounds, changes, estimate, scan
from indexer.indexing.changes import Changes
from indexer.indexing.estimate import Estimate
from indexer.indexing.job import Job, Rebuild, open_job
from indexer.inference import matryoshka
from indexer.progress import as_range
from indexer.publishing.gates import Gate
from indexer.settings import Settings
from indexer.storage.control import ControlStore

COUNTS = (
    *("documents", "new", "changed", "payload_changed", "unchanged"),
    *("deleted", "moved", "copied", "kept", "quarantined"),
)
"""Counts of the comparison that a plan gives."""

MEGABYTE = 1e6


def plan(settings: Settings, *, rebuild: Rebuild = False, budget: float | None = None) -> dict[str, Any]:
    """Says what :func:`run` would do, and writes nothing into the index.

    Args:
        settings: The settings.
        rebuild: As for :func:`indexer.indexing.run`.
        budget: As for :func:`indexer.indexing.run`; a plan above it is listed as refused.

    Returns:
        Files, shards, documents, workers and all gates; ``vector_bytes`` of the chunks that are left to embed, by width
        table; ``written_rows`` and ``written_bytes`` count reused and copied vectors too; ``table_bytes`` of the
        published tables, without what the run adds, and ``removed_tables`` those that the epoch no longer has. Tokens
        are estimated from a sample, seconds from the last run's rate, GPU-hours and money as in
        :class:`indexer.indexing.estimate.Estimate`. ``refused`` lists the gates that would refuse. JSON-ready.

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
        planned = _described(job, found, gates, budget)
        return planned | {"workers": min(cluster.workers, planned["shards"])}


def _described(job: Job, found: Changes, gates: Sequence[Gate], budget: float | None) -> dict[str, Any]:
    """The plan, without the number of workers."""
    shards = estimate.left_shards(job, found)
    taken = estimate.of_shards(job, shards)
    to_embed = sum(shard.documents for shard in shards)
    itemsize = np.dtype(matryoshka.STORED[job.settings.index.precision]).itemsize * _vectors_per_row(job, taken)
    rows = {width: _written_rows(job, found, taken, to_embed, width) for width in job.layout.widths}
    return {
        "epoch": job.epoch,
        "files": len(job.corpus.files),
        **{name: found.counts[name] for name in COUNTS},
        "changes": job.change.differences,
        "shards": len(shards),
        "to_embed": to_embed,
        "estimated_tokens": taken.tokens,
        "estimated_chunks": taken.chunks,
        "estimated_seconds": None if taken.seconds is None else round(taken.seconds),
        "estimated_seconds_range": None if taken.seconds_range is None else [round(one) for one in taken.seconds_range],
        "estimated_gpu_hours": None if taken.gpu_hours is None else round(taken.gpu_hours, 4),
        "estimated_money": None if taken.money is None else round(taken.money, 2),
        "estimated_by": taken.basis,
        "vector_bytes": {
            job.layout.table(width): round(taken.chunks * width * itemsize) for width in job.layout.widths
        },
        "written_rows": {job.layout.table(width): written for width, written in rows.items()},
        "written_bytes": {
            job.layout.table(width): round(written * width * itemsize) for width, written in rows.items()
        },
        "table_bytes": {} if job.published is None else {table.name: table.bytes for table in job.published.searched},
        "removed_tables": _removed_tables(job),
        "gates": {gate.name: gate.measured for gate in gates},
        "refused": [*(str(gate) for gate in gates if not gate.holds), *_above(taken, budget)],
        "conventions": job.model.conventions(),
    }


def _vectors_per_row(job: Job, taken: Estimate) -> float:
    """Vectors of a row: one, or by the estimate one of each token, those of punctuation included."""
    if not job.layout.per_token:
        return 1
    if taken.chunks or job.published is None:
        return taken.tokens / max(1, taken.chunks)
    known = job.published.description.run
    return known.tokens / max(1, known.chunks)


def _written_rows(job: Job, found: Changes, taken: Estimate, to_embed: int, width: int) -> int:
    """Rows that the run writes into a width table: embedded and reused ones, and all others if it is written anew."""
    per_document = taken.chunks / max(1, to_embed)
    if job.published is not None:
        per_document = job.published.tables[0].rows / max(1, job.published.description.documents)
    counts = found.counts
    reused = counts["moved"] + counts["payload_changed"] + counts["copied"]
    if job.layout.table(width) in job.change.remade:
        reused += counts["unchanged"] + counts["kept"]
    return taken.chunks + round(per_document * reused)


def _removed_tables(job: Job) -> dict[str, int]:
    """Bytes of the latest epoch's tables that the run's epoch does not have."""
    stored = job.latest.searched if job.latest is not None else []
    asked = job.layout.schemas()
    return {table.name: table.bytes + table.search_bytes for table in stored if table.name not in asked}


def _above(taken: Estimate, budget: float | None) -> list[str]:
    """Why a plan is above its budget, if it is."""
    try:
        if budget is not None:
            estimate.refuse_above(taken, budget)
    except RefusedError as error:
        return [str(error)]
    return []


def in_words(planned: Mapping[str, Any]) -> str:
    """A plan for people, in lines."""
    counted = ", ".join(f"{planned[name]:,} {name}" for name in COUNTS if name != "documents")
    written = ", ".join(f"{name} {rows:,}" for name, rows in planned["written_rows"].items())
    removed = planned["removed_tables"]
    refused = "; ".join(planned["refused"])
    return "\n".join(
        [
            f"epoch      {planned['epoch']} from {planned['documents']:,} rows in {planned['files']:,} files",
            f"documents  {counted}",
            *(f"change     {text}: from stored vectors, nothing is embedded" for text in planned["changes"]),
            f"to embed   {planned['to_embed']:,} documents in {planned['shards']:,} shards; {_time_in_words(planned)}",
            f"           about {planned['estimated_tokens']:,} tokens in {planned['estimated_chunks']:,} chunks",
            f"           {_cost_in_words(planned)}",
            f"vectors    {_sizes_in_words(planned['vector_bytes'])} of what is embedded",
            *([f"tables     {_sizes_in_words(planned['table_bytes'])} as published"] if planned["table_bytes"] else []),
            f"writes     {_sizes_in_words(planned['written_bytes'])} of vectors; rows: {written}",
            *([f"removes    {_sizes_in_words(removed)} once jobs.publish prune forgets epochs"] if removed else []),
            *_conventions_in_words(planned["conventions"]),
            f"workers    {planned['workers']}",
            f"gates      {f'would refuse: {refused}' if refused else 'hold'}",
        ]
    )


def _sizes_in_words(sizes: Mapping[str, int]) -> str:
    """Bytes by table."""
    return ", ".join(f"{name} {size / MEGABYTE:,.1f} MB" for name, size in sizes.items())


def _time_in_words(planned: Mapping[str, Any]) -> str:
    """Seconds of a plan, as a range where runs differed."""
    seconds, bounds = planned["estimated_seconds"], planned["estimated_seconds_range"]
    if seconds is None:
        return "the time is not known before the first run"
    told = f"about {seconds:,} s as the last run"
    return told if bounds[0] == bounds[1] else f"{told}, {as_range(bounds)} s as the last few"


def _conventions_in_words(told: Mapping[str, Any]) -> Iterator[str]:
    """What the model makes of texts, in lines."""
    cased = ", lower case" if told["lower_case"] else ""
    size = f"{told['dimension']:,} dimensions, {told['max_tokens']:,} tokens at most"
    yield f"model      {told['modules']}, {size}{cased}"
    template = json.dumps(told["query_template"], ensure_ascii=False)
    task = json.dumps(told["query_instruction"], ensure_ascii=False) if "{instruction}" in template else None
    yield f"           queries as {template}{'' if task is None else f', instruction {task}'}"
    if told["document_prompt"]:
        yield f"           documents after {json.dumps(told['document_prompt'], ensure_ascii=False)}"


def _cost_in_words(planned: Mapping[str, Any]) -> str:
    """GPU-hours and money of a plan."""
    hours, money = planned["estimated_gpu_hours"], planned["estimated_money"]
    if hours is None:
        return "GPU-hours are not known before the first run on GPUs; run.gpu_tflops lets them be estimated for Qwen3"
    paid = "" if money is None else f", which cost {money:,.2f}"
    return f"about {hours:,.3g} GPU-hours{paid} (by {planned['estimated_by']})"
