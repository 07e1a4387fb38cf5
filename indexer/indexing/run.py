"""The main job: corpus -> changes -> shards on workers -> intent -> epoch; plan and summary."""

from contextlib import ExitStack
from enum import Enum
from functools import partial
from itertools import count
from typing import Any

from indexer import tracing
from indexer.cluster.connection import SMALL_ROWS, Cluster
from indexer.corpus.documents import list_corpus
from indexer.errors import CannotFinish, CorpusError, RefusedError
from indexer.indexing import bounds, changes, estimate, report, scan, summary
from indexer.indexing.intent import make_intent
from indexer.indexing.job import Job, Rebuild, open_job
from indexer.indexing.journal import Journal
from indexer.indexing.kept import keep_published
from indexer.indexing.sandbox import ReaderProcess
from indexer.indexing.stage import stage, stage_rest
from indexer.indexing.staged import Staged
from indexer.inference.model import Model
from indexer.progress import say
from indexer.publishing import publish
from indexer.publishing.gates import check_vectors, enforce
from indexer.settings import Settings
from indexer.storage.records import Epoch, Intent
from indexer.storage.tags import protect
from indexer.uris import shown

LISTINGS = 3
"""Times that a changing corpus is listed before unreadable files are left out."""


class Again(Enum):
    """Why an attempt did not publish and another one starts."""

    PENDING_FINISHED = "another run's epoch was pending and is published now"
    CORPUS_CHANGED = "the corpus changed while it was read"
    OVERTAKEN = "another run published the epoch first"
    GIVEN_UP = "what was staged is gone"


def run(
    settings: Settings,
    model: Model | None = None,
    cluster: Cluster | None = None,
    *,
    rebuild: Rebuild = False,
    budget: float | None = None,
    journal: Journal | None = None,
) -> dict[str, Any]:
    """Brings the index up to date with the corpus, and writes the run's report.

    Args:
        settings: The settings.
        model: A model to use instead of the configured one.
        cluster: A connected cluster, which stays connected; by default the run connects as the settings say.
        rebuild: Whether contradicting settings build a new generation of tables beside the published ones, and switch
            to it, instead of raising an error.
        budget: Most money that the run may cost by its estimate; ``None`` for no bound.
        journal: Where the run notes what it does; a caller that wants to know it of a run that failed gives one.

    Returns:
        The summary, JSON-ready.

    Raises:
        SettingsError: The settings contradict the model or the published index.
        CorpusError: The corpus cannot be read as configured.
        RefusedError: A gate refused, the estimate is above the budget, or another run's epoch is in the way; nothing
            was published.
        IndexerError: Anything else that ends the run.
    """
    watch = journal or Journal()
    try:
        with tracing.span("index run", index=settings.index.name):
            done = _run(settings, model, cluster, rebuild, budget, watch)
    except (Exception, KeyboardInterrupt) as error:
        report.write(settings, watch, watch.last_line(summary.of_ended(error)), error)
        raise
    finally:
        tracing.flush()
    report.write(settings, watch, done)
    return done | {"report": watch.report}


def _run(
    settings: Settings,
    model: Model | None,
    cluster: Cluster | None,
    rebuild: Rebuild,
    budget: float | None,
    watch: Journal,
) -> dict[str, Any]:
    """As :func:`run`, without the report."""
    with watch("open"):
        job = open_job(settings, model, rebuild=rebuild)
        pending = job.store.pending_intent()
        if job.published is not None:
            protect(settings.index.uri, job.published.versions(), job.published.number)  # not tagged before 0.2
    if pending is None and job.published is not None and job.is_published:
        return _unchanged(job.published)
    reader = scan.start_reader(job)
    with ExitStack() as stack:
        with watch("connect"):
            cluster = cluster or stack.enter_context(Cluster(settings.cluster, settings.engine.replicas_per_gpu))
        tries = count(1)
        while isinstance(ended := _attempt(job, cluster, reader, watch, next(tries), budget), Again):
            latest = job.store.latest_epoch()
            if latest is not None and job.latest is not None and latest.generation > job.latest.generation:
                rebuild = bool(rebuild)  # "always" is done: another run has published the new generation
            job = open_job(settings, model, rebuild=rebuild)
            reader = scan.start_reader(job)
    return ended


def _attempt(
    job: Job, cluster: Cluster, reader: ReaderProcess, watch: Journal, number: int, budget: float | None
) -> dict[str, Any] | Again:
    """The summary of one epoch, or the reason for another attempt."""
    pending = job.store.pending_intent()
    if pending is not None:
        say(f"epoch {pending.epoch} was begun by another run: finishing it")
        _finish(job, cluster, pending, watch)
        return Again.PENDING_FINISHED
    with watch("scan"):
        unread = scan.scan(job, cluster, reader)
        if unread and number < LISTINGS and list_corpus(job.settings.corpus) != job.corpus.files:
            say("the corpus changed while it was read: listing it again")
            return Again.CORPUS_CHANGED
    with watch("compare"):
        found = changes.compare(job, cluster, unread)
    if not found.counts["documents"]:
        raise CorpusError(f"corpus.uri: {shown(job.settings.corpus.uri)} has files and not a single row")
    if not found.differs and job.published is not None and not job.settings_differ:
        return _unchanged(job.published)
    if found.counts["kept"]:
        say(f"{found.counts['kept']:,} documents of files that cannot be read stay published for now", "WARNING")
    gates = job.settings.gates
    watch.counts = found.counts
    watch.note_quarantine(found.quarantine)
    braked = bounds.of_comparison(job, found, len(unread))
    watch.measured(braked)
    enforce(braked)
    if budget is not None:
        estimate.refuse_above(estimate.of_shards(job, estimate.left_shards(job, found)), budget)
    staged = stage(job, cluster, found, unread, watch)
    found = keep_published(job, found, staged)
    with watch("copy"):
        stage_rest(job, cluster, found, staged)
    with watch("check"):
        hold = bounds.of_counts(job, found, len(unread), staged.quarantined)
        enforce(hold)
        names = [job.layout.table(width) for width in job.layout.widths]
        hold += check_vectors(job.settings.index.uri, job.store, job.epoch, staged.receipts, names, gates)
        ours = make_intent(job, found, staged, hold, watch)
    epoch = _published(job, cluster, ours, watch)
    return epoch if isinstance(epoch, Again) else summary.of_published(epoch, _times(watch, staged))


def _published(job: Job, cluster: Cluster, ours: Intent, watch: Journal) -> Epoch | Again:
    """Publishes our intent, or the one that another run put first; returns the epoch if it is ours."""
    epoch = _finish(job, cluster, job.store.put_intent(ours), watch)
    if epoch is None:
        return Again.GIVEN_UP
    if epoch.description.rollback_of is not None:
        raise RefusedError(f"epoch {epoch.number} was given up by a rollback to epoch {epoch.description.rollback_of}")
    if epoch.intent != ours.digest:
        say(f"another run published epoch {epoch.number} first: comparing with it")
        return Again.OVERTAKEN
    return epoch


def _finish(job: Job, cluster: Cluster, intent: Intent, watch: Journal) -> Epoch | None:
    """Publishes an intent. Large tables are handled in tasks, so that this process stays small.

    Returns:
        The epoch; ``None`` if staged files are gone and the intent is given up.
    """
    each = partial(cluster.map, in_driver=intent.documents < SMALL_ROWS)
    try:
        index, gates = job.settings.index, job.settings.gates
        return publish.finish(index.uri, job.store, intent, gates, index.parallel_rows, each, watch)
    except CannotFinish as error:
        say(f"{error}: epoch {intent.epoch} is begun again", "WARNING")
        job.store.give_up(intent.epoch)
        return None


def _times(watch: Journal, staged: Staged) -> dict[str, Any]:
    """Seconds of the run in total and by stage, the workers' overlapping stages apart; and what made it slower."""
    return {
        "seconds": round(sum(watch.seconds.values()), 3),
        "stages": {stage: round(value, 3) for stage, value in watch.seconds.items()},
        "worker_stages": {stage: round(value, 3) for stage, value in staged.seconds.items()},
        "fallbacks": watch.fallbacks,
    }


def _unchanged(epoch: Epoch) -> dict[str, Any]:
    """Says that nothing changed; returns the summary."""
    say(f"nothing changed since epoch {epoch.number}: nothing embedded, nothing published")
    return summary.of_unchanged(epoch)
