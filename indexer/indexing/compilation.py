"""Chooses whether a run's engines compile the model, which takes longer than a short night's work."""

from dataclasses import replace

from indexer.indexing.estimate import last_run
from indexer.indexing.job import Job
from indexer.inference.model import Model
from indexer.progress import say

PAYS_SECONDS = 300.0
"""Seconds of embedding per worker from which compiling pays. Measured on one core: it takes 11 s of CPU and saves 3 %
of MiniLM's time and 12 % of a 4-layer, 256-wide Qwen3's, so it pays after 90 to 370 s."""

BYTES_PER_TOKEN = 4.0
"""Bytes of text per token of English; Chinese has about as many."""

CPU_RATE, GPU_RATE = 1.5e11, 3e14
"""FLOP/s of a worker before the first run has measured it: a core in float32 (measured), an H100 (by arithmetic)."""

CHOICES = frozenset({"enforce_eager", "compilation_config", "optimization_level"})
"""Engine arguments with which the settings choose themselves."""


def fitted(job: Job, text_bytes: int, workers: int, *, gpus: bool) -> Model:
    """The job's model, whose engines compile only if the expected work outweighs it.

    Args:
        job: The job. If its engine arguments say how to compile, they stay as they are.
        text_bytes: Bytes of the texts to embed.
        workers: Engines that share the work.
        gpus: Whether they run on GPUs.
    """
    given = job.settings.engine
    if CHOICES & given.arguments.keys():
        return job.model
    seconds = _expected_seconds(job, text_bytes / BYTES_PER_TOKEN, workers, gpus=gpus)
    if seconds >= PAYS_SECONDS:
        say(f"engines compile the model first, since each is expected to work for {seconds:,.0f} s")
        return job.model
    say(f"engines start without compiling: it pays from {PAYS_SECONDS:.0f} s of work on, {seconds:.0f} s are expected")
    eager = given.model_copy(update={"enforce_eager": True})
    return replace(job.model, engine_settings=eager)


def _expected_seconds(job: Job, tokens: float, workers: int, *, gpus: bool) -> float:
    """Seconds of work for each worker, by the last run's rate, otherwise by the model's FLOPs."""
    last = last_run(job)
    if last is not None:
        return tokens / last.tokens_per_second
    # A forward pass costs two FLOPs per weight and token: one per byte of bfloat16 weights, half of that in float32.
    return tokens * job.model.checkpoint.weight_bytes / workers / (GPU_RATE if gpus else CPU_RATE)
