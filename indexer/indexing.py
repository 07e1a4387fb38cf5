"""The main job: corpus -> changes -> shards on workers -> intent -> epoch; plan and summary."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa

from indexer import comparison, moving, publish, quarantine, schema, tables
from indexer.cluster import SMALL_ROWS, Cluster, GivenUp
from indexer.comparison import Changes, Unread
from indexer.corpus import Shard, open_corpus
from indexer.embedding import EmbedPipeline, Target
from indexer.epochs import Epoch, Intent, Receipt, canonical
from indexer.errors import CorpusError, RefusedError
from indexer.job import Job, open_job
from indexer.model import Model
from indexer.pipeline import Stopwatch
from indexer.progress import Progress, say
from indexer.publish import Gate
from indexer.reader import ReaderProcess
from indexer.settings import Settings

LISTINGS = 3
"""How often a corpus that changes while it is read is listed before files are left out."""

Recipe = Callable[[Target, Model], Callable[[], EmbedPipeline]]
"""How workers build their pipelines."""


@dataclass(frozen=True)
class MakePipeline:
    """Builds a worker's pipeline in the worker's process."""

    target: Target
    model: Model

    def __call__(self) -> EmbedPipeline:
        """Starts the engine."""
        return EmbedPipeline(self.target, self.model.engine, lambda: self.model.tokenizer)


def run(settings: Settings, recipe: Recipe = MakePipeline, *, rebuild: bool = False) -> dict[str, Any]:
    """Brings the index up to date with the corpus.

    Args:
        settings: The settings.
        recipe: How workers build their pipelines; tests put a fake engine here.
        rebuild: Where the settings make other vectors or tables than the published ones, build a new generation of
            tables beside these and switch to it.

    Returns:
        The summary, JSON-ready.

    Raises:
        SettingsError: The settings contradict the model or the published index.
        CorpusError: The corpus cannot be read as configured.
        RefusedError: A gate refused, or another run's epoch is in the way; nothing was published.
        IndexerError: Anything else that ends the run.
    """
    watch = Stopwatch()
    with watch("open"):
        job = open_job(settings, rebuild=rebuild)
        pending = job.store.pending_intent()
    if pending is None and job.published is not None and job.is_published:
        return _unchanged(job.published)
    reader = comparison.start_reader(job)
    with ExitStack() as stack:
        with watch("connect"):
            cluster = stack.enter_context(Cluster(settings.cluster, settings.engine.replicas_per_gpu))
        tries = count(1)
        while (summary := _attempt(job, cluster, reader, recipe, watch, next(tries))) is None:
            job = open_job(settings, rebuild=rebuild)
            reader = comparison.start_reader(job)
    return summary


def _attempt(
    job: Job, cluster: Cluster, reader: ReaderProcess, recipe: Recipe, watch: Stopwatch, number: int
) -> dict[str, Any] | None:
    """One epoch; ``None`` where another run's was in the way and is published now, or the corpus is another one."""
    pending = job.store.pending_intent()
    if pending is not None:
        say(f"epoch {pending.epoch} was begun by another run: finishing it")
        _finish(job, cluster, pending, watch)
        return None
    with watch("scan"):
        unread = comparison.scan(job, cluster, reader)
        if unread and number < LISTINGS and open_corpus(job.settings.corpus).files != job.corpus.files:
            say("the corpus changed while it was read: listing it again")
            return None
    with watch("compare"):
        found = comparison.compare(job, cluster, unread)
    if not found.counts["documents"]:
        raise CorpusError(f"corpus.uri: {job.settings.corpus.uri} has files and not a single row")
    if not found.differs and job.published is not None and not job.asks_otherwise:
        return _unchanged(job.published)
    gates = job.settings.gates
    publish.check_files(len(unread), len(job.corpus.files), gates)
    _check_counts(job, found.counts)
    staged = _stage(job, cluster, found, unread, recipe, watch)
    cluster.stop_workers()
    with watch("check"):
        quarantined = found.counts["quarantined"] + staged.quarantined
        hold = _check_counts(job, found.counts | {"quarantined": quarantined})
        names = [job.layout.table(width) for width in job.layout.widths]
        hold += publish.check_vectors(job.settings.index.uri, job.store, job.epoch, staged.receipts, names, gates)
        ours = _intent(job, found, staged, hold, watch)
        counted = job.store.put_intent(ours)
    epoch = _finish(job, cluster, counted, watch)
    if counted != ours:
        say(f"another run published epoch {epoch.number} first: comparing with it")
        return None
    if "rollback_of" in epoch.description:
        raise RefusedError(
            f"epoch {epoch.number} was given up by a rollback to epoch {epoch.description['rollback_of']}"
        )
    return _summary(epoch) | _times(watch, staged, epoch)


def _finish(job: Job, cluster: Cluster, intent: Intent, watch: Stopwatch) -> Epoch:
    """Publishes; the work on large tables in tasks, so that this process stays small."""
    each = partial(cluster.map, here=intent.documents < SMALL_ROWS)
    return publish.finish(job.settings.index.uri, job.store, intent, job.settings.gates, each, watch)


@dataclass
class Staged:
    """What is staged for the epoch so far, in numbers; the fragments are in the receipts.

    Attributes:
        receipts: Shards staged.
        quarantine: Quarantined rows that no receipt has.
        documents: Documents staged; likewise chunks, truncated and tokens of the receipts.
        quarantined: Documents that workers refused or died of.
        resumed: Shards an earlier run had staged.
        resumed_tokens: Tokens of those.
        to_retry: Files and documents quarantined for reasons that may pass.
        moved: Documents whose vectors were taken over.
        restarts: Workers that died and were replaced.
        seconds: Seconds of this run's workers by stage, all workers together.
    """

    receipts: list[str]
    quarantine: list[pa.Table]
    documents: int = 0
    chunks: int = 0
    quarantined: int = 0
    truncated: int = 0
    tokens: int = 0
    resumed: int = 0
    resumed_tokens: int = 0
    to_retry: int = 0
    moved: int = 0
    restarts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, receipt: Receipt) -> None:
        """Counts a shard."""
        self.receipts.append(receipt.shard_id)
        self.documents += receipt.documents
        self.chunks += receipt.chunks
        self.quarantined += receipt.quarantined
        self.to_retry += receipt.unread
        self.truncated += receipt.truncated
        self.tokens += receipt.tokens


def _check_counts(job: Job, counts: Mapping[str, int]) -> list[Gate]:
    before = _documents(job.latest) if job.latest else 0
    if job.published is None:  # a rebuild compares with nothing; what it leaves out of the old index is removed too
        usable = counts["documents"] - counts["quarantined"] - counts["duplicates"]
        counts = {**counts, "deleted": max(0, before - usable)}
    return publish.check_counts(counts, before, job.settings.gates, job.settings.run.max_quarantine)


def _stage(
    job: Job, cluster: Cluster, found: Changes, unread: Mapping[str, Unread], recipe: Recipe, watch: Stopwatch
) -> Staged:
    """Takes every shard to a receipt, those of an earlier run as they are."""
    tables.ensure(job.settings.index.uri, job.layout.schemas())
    receipts = job.store.receipt_ids(job.epoch)
    left = [quarantine.located(table, job.corpus, unread) for table in found.quarantine]
    staged = Staged([], left, to_retry=len(unread))
    target = Target(job.corpus, job.layout, job.settings.index.uri, job.epoch)
    with watch("move"):
        _move(job, cluster, found, target, staged)
    shards = documents = 0
    for shard in comparison.shards(job, found):
        if shard.shard_id in receipts:
            staged.add(job.store.receipt(job.epoch, shard.shard_id))
            staged.resumed += 1
            staged.resumed_tokens = staged.tokens
        else:
            shards += 1
            documents += shard.documents
    if staged.resumed:
        say(f"resuming epoch {job.epoch}: {staged.resumed} shards ({staged.documents:,} documents) are staged already")
    if shards:
        say(f"starting {min(cluster.workers, shards)} workers for {documents:,} documents in {shards} shards")
        with watch("start"):
            workers = cluster.start_workers(recipe(target, job.model), shards)
        with watch("embed"), Progress(documents, workers, job.settings.run.progress) as progress:
            rest = (shard for shard in comparison.shards(job, found) if shard.shard_id not in receipts)
            given = job.settings.run
            _embed(job, cluster.run(rest, given.retries, given.max_restarts), staged, progress)
            staged.restarts = cluster.restarts
    return staged


def _move(job: Job, cluster: Cluster, found: Changes, target: Target, staged: Staged) -> None:
    """Stages what moved; the receipts of an earlier run that did so are found when the shards put theirs."""
    if job.published is None or not found.moved.num_rows:
        return
    say(f"{found.moved.num_rows:,} documents moved: their vectors are taken over")
    paths = [file.path for file in job.corpus.files]
    rows = zip(*(found.moved[name].to_pylist() for name in ("file", "row", "id")), strict=True)
    old_ids = {(paths[file], row): name for file, row, name in rows}
    versions = job.published.versions()
    items = ((target, shard, _of(shard, old_ids), versions) for shard in comparison.moved_shards(job, found))
    for receipt in cluster.map(moving.move, items, here=found.moved.num_rows < SMALL_ROWS):
        staged.add(receipt)
        staged.moved += receipt.documents


def _of(shard: Shard, old_ids: Mapping[tuple[str, int], str]) -> dict[tuple[str, int], str]:
    """The part of the mapping that a shard needs."""
    keys = ((part.file.path, part.start + int(at)) for part in shard.parts for at in np.flatnonzero(part.chosen))
    return {key: old_ids[key] for key in keys}


def _embed(job: Job, outcomes: Iterable[Receipt | GivenUp[Shard]], staged: Staged, progress: Progress) -> None:
    for outcome in outcomes:
        if isinstance(outcome, GivenUp):
            rows = quarantine.poison(job, outcome.piece, outcome.reason)
            staged.quarantine.append(rows)
            staged.quarantined += rows.num_rows
            progress.add(rows.num_rows, 0)
        else:
            staged.add(outcome)
            for stage, seconds in outcome.seconds.items():
                staged.seconds[stage] = staged.seconds.get(stage, 0.0) + seconds
            progress.add(outcome.documents + outcome.quarantined, outcome.tokens)


def _intent(job: Job, found: Changes, staged: Staged, hold: Sequence[Gate], watch: Stopwatch) -> Intent:
    uri, layout = job.settings.index.uri, job.layout
    trained = {table.name: table.trained_rows for table in (job.published.tables if job.published else [])}
    bases = tables.ensure(uri, layout.schemas()) | (job.published.versions() if job.published else {})
    quarantine = pa.concat_tables([schema.QUARANTINE_SCHEMA.empty_table(), *staged.quarantine])
    dropped = [ids for ids in found.dropped if len(ids)]
    model = job.model.describe()
    return Intent(
        epoch=job.epoch,
        generation=layout.generation,
        bases={name: bases[name] for name in layout.schemas()},
        widths={layout.table(width): width for width in layout.widths},
        quarantine_table=layout.quarantine,
        vector_index=job.settings.index.vector_index,
        trained_rows={name: rows for name, rows in trained.items() if rows is not None},
        receipts=staged.receipts,
        quarantine=tables.stage(uri, layout.quarantine, quarantine) if quarantine.num_rows else [],
        removals=[job.store.put_removals(job.epoch, ids) for ids in dropped],
        documents=found.counts["unchanged"] + staged.documents,
        metadata={
            "fingerprint": canonical(job.model.fingerprint),
            "metric": layout.metric,
            **{key: str(model[key]) for key in ("name", "revision", "dimension", "query_template")},
            "query_instruction": str(model["query_instruction"]),
        },
        description={
            "fingerprint": job.model.fingerprint,
            "layout": layout.describe(),
            "corpus": job.corpus.digest,
            "text_columns": job.settings.corpus.text_columns,
            "model": model,
            "to_retry": staged.to_retry,
            "counts": found.counts | {"moved": staged.moved},
            "gates": {gate.name: gate.measured for gate in hold},
            "run": {
                "documents": found.counts["documents"],
                "indexed": staged.documents - staged.moved,
                "quarantined": found.counts["quarantined"] + staged.quarantined,
                "truncated": staged.truncated,
                "chunks": staged.chunks,
                "tokens": staged.tokens,
                "resumed_shards": staged.resumed,
                "resumed_tokens": staged.resumed_tokens,
                "restarts": staged.restarts,
                "tokens_per_second": _rate(staged, watch),
            },
        },
    )


def _documents(epoch: Epoch) -> int:
    counts, run = epoch.description["counts"], epoch.description["run"]
    return int(counts["unchanged"] + counts["moved"] + run["indexed"])


def _summary(epoch: Epoch) -> dict[str, Any]:
    changed = {name: epoch.description["counts"][name] for name in ("new", "changed", "unchanged", "deleted", "moved")}
    return {
        "epoch": epoch.number,
        **epoch.description["run"],
        **changed,
        "duplicates": epoch.description["counts"]["duplicates"],
        "quarantine_reasons": epoch.description["quarantine_reasons"],
        "gates": epoch.description["gates"],
        "maintenance": epoch.description["maintenance"],
        "tables": _tables(epoch),
    }


def _times(watch: Stopwatch, staged: Staged, epoch: Epoch) -> dict[str, Any]:
    """Seconds of the run in all and by stage, of its workers by stage, which overlap, and its rate."""
    return {
        "seconds": round(sum(watch.seconds.values()), 3),
        "stages": {stage: round(value, 3) for stage, value in watch.seconds.items()},
        "worker_stages": {stage: round(value, 3) for stage, value in staged.seconds.items()},
        "tokens_per_second": epoch.description["run"]["tokens_per_second"],
    }


def _rate(staged: Staged, watch: Stopwatch) -> float:
    """Tokens per second while the engines were at work; 0 where this run needed none."""
    seconds = watch.seconds.get("embed", 0.0)
    return round((staged.tokens - staged.resumed_tokens) / seconds, 1) if seconds else 0.0


def _unchanged(epoch: Epoch) -> dict[str, Any]:
    """Summary of a run that had nothing to do."""
    say(f"nothing changed since epoch {epoch.number}: nothing embedded, nothing published")
    counts = ("indexed", "truncated", "chunks", "tokens", "seconds", "tokens_per_second")
    kept = {name: epoch.description["run"][name] for name in ("documents", "quarantined")}
    reasons = epoch.description["quarantine_reasons"]
    return {
        "epoch": epoch.number,
        **kept,
        "quarantine_reasons": reasons,
        **dict.fromkeys(counts, 0),
        "gates": epoch.description["gates"],
        "tables": _tables(epoch),
    }


def _tables(epoch: Epoch) -> list[dict[str, Any]]:
    return [table.model_dump(include={"name", "width", "rows", "bytes", "index"}) for table in epoch.tables]
