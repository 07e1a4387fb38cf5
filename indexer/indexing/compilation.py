"""Expects a night's work for each engine, to choose whether engines compile the model."""

from itertools import islice

from indexer.indexing.estimate import last_run
from indexer.indexing.job import Job
from indexer.inference import compiling
from indexer.inference.compiling import BYTES_PER_TOKEN, ExpectedWork
from indexer.inference.model import Model
from indexer.reporting.runs import NIGHTS


def fitted(job: Job, text_bytes: int, workers: int, *, gpus: bool) -> Model:
    """The job's model, whose engines compile only if the expected work outweighs it.

    Args:
        job: The job.
        text_bytes: Bytes of the texts to embed.
        workers: Engines that share the work.
        gpus: Whether they run on GPUs.
    """
    tokens, last = text_bytes / BYTES_PER_TOKEN, last_run(job)
    if last is not None:
        seconds = tokens / last.tokens_per_second
    else:
        seconds = ExpectedWork(tokens, workers, gpus).seconds(job.model)
    return compiling.fitted(job.model, seconds, last_cost(job), gpus=gpus)


def last_cost(job: Job) -> float | None:
    """Seconds that compiling took in the last of some runs whose engines compiled."""
    runs = (epoch.description.run for epoch in islice(job.store.newest_first(), NIGHTS))
    return next((run.compile_seconds for run in runs if run.compile_seconds), None)
