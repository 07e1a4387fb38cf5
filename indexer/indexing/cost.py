"""Estimates the cost of embedding everything again, from what earlier runs measured."""

from collections.abc import Iterator

from indexer.storage.control import ControlStore
from indexer.storage.description import RunTotals
from indexer.storage.records import Epoch


def of_rebuild(store: ControlStore, published: Epoch) -> str:
    """Cost of embedding every published document again, in words.

    Args:
        store: Control files of the index.
        published: The epoch that holds the documents.
    """
    rows = published.tables[0].rows
    run = next((run for run in _runs(store) if run.chunks and run.tokens), None)
    tokens = rows * run.tokens / run.chunks if run else 0.0
    rate = next((run.tokens_per_second for run in _runs(store) if run.tokens_per_second), 0.0)
    read = f", about {tokens:,.0f} tokens" if tokens else ""
    took = f", {tokens / rate:,.0f} s at the last run's rate" if tokens and rate else ""
    return f"it embeds all {rows:,} vectors again{read}{took}"


def _runs(store: ControlStore) -> Iterator[RunTotals]:
    """Totals of the listed epochs' runs, the newest first; damaged files are skipped."""
    return (epoch.description.run for epoch in store.newest_first())
