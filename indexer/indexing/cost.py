"""Estimates the cost of embedding everything again, from what earlier runs measured."""

from collections.abc import Iterator

from indexer.reporting.record import SECONDS_PER_HOUR
from indexer.storage.control import ControlStore
from indexer.storage.description import Description, RunTotals
from indexer.storage.records import Epoch


def of_rebuild(store: ControlStore, published: Epoch, price: float | None = None) -> str:
    """Cost of embedding every published document again, in words.

    Args:
        store: Control files of the index.
        published: The epoch that holds the documents.
        price: ``run.gpu_hour_price``.
    """
    rows = published.tables[0].rows
    means = (one.run.tokens / chunks for one in _runs(store) if (chunks := _embedded_chunks(one)))
    tokens = rows * next(means, 0.0)
    last = next((one.run for one in _runs(store) if one.run.tokens_per_second), None)
    told = f"it embeds all {rows:,} vectors again"
    if not tokens:
        return told
    told += f", about {tokens:,.0f} tokens"
    if last is None:
        return told
    seconds = tokens / last.tokens_per_second
    told += f", {seconds:,.0f} s at the last run's rate"
    hours = tokens * gpu_hours_per_token(last)
    if hours:
        told += f", {hours:,.3g} GPU-hours" + ("" if price is None else f", which cost {hours * price:,.2f}")
    return told


def gpu_hours_per_token(run: RunTotals) -> float:
    """GPU-hours of a token: without the start of the engines, which larger work does not repeat; 0 without GPUs."""
    if run.ready_gpu_hours:
        return run.ready_gpu_hours / (run.tokens - run.resumed_tokens)
    return run.gpus / run.tokens_per_second / SECONDS_PER_HOUR


def _embedded_chunks(described: Description) -> int:
    """Chunks that a run's tokens are of, 0 if it embedded none or if that is not known.

    Versions that did not count them recorded all staged chunks, among them those with reused vectors.
    """
    run, counts = described.run, described.counts
    if not run.tokens:
        return 0
    if run.embedded is not None:
        return run.embedded
    return 0 if counts.moved or counts.payload_changed or counts.copied else run.chunks


def _runs(store: ControlStore) -> Iterator[Description]:
    """Descriptions of the listed epochs, the newest first; damaged files are skipped."""
    return (epoch.description for epoch in store.newest_first())
