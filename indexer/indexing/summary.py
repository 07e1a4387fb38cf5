"""The summary of a run: the same keys, however the run ended."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from indexer.errors import IndexerError, RefusedError, missing_package
from indexer.reporting.summary_keys import empty_summary

if TYPE_CHECKING:
    from indexer.storage.records import Epoch, TableState


class RunStatus(StrEnum):
    """How a run ended."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


KEPT = {"new", "changed", "payload_changed", "unchanged", "deleted", "moved", "copied", "kept", "duplicates"}
"""Counts of the comparison that go into the summary."""


def of_published(epoch: "Epoch", times: Mapping[str, Any]) -> dict[str, Any]:
    """Summary of a run that published an epoch.

    Args:
        epoch: The epoch.
        times: Keys ``seconds``, ``stages``, ``worker_stages`` and ``fallbacks``.
    """
    described = epoch.description
    found = {
        **described.run.model_dump(),
        **described.counts.model_dump(include=KEPT),
        "maintenance": {name: done.model_dump() for name, done in described.maintenance.items()},
    }
    return {**empty_summary(RunStatus.PUBLISHED), **_of_epoch(epoch), **found, **times}


def of_unchanged(epoch: "Epoch") -> dict[str, Any]:
    """Summary of a run that had nothing to do."""
    described = epoch.description
    found = {
        **described.run.model_dump(include={"documents", "quarantined"}),
        "duplicates": described.counts.duplicates,
        "kept": described.counts.kept,
        "unchanged": epoch.description.documents,
    }
    return empty_summary(RunStatus.UNCHANGED) | _of_epoch(epoch) | found


def of_ended(error: BaseException) -> dict[str, Any]:
    """Summary of a run that published nothing."""
    if isinstance(error, KeyboardInterrupt):
        return empty_summary(RunStatus.INTERRUPTED)
    if isinstance(error, ImportError):
        error = missing_package(error) or error
    status = RunStatus.REFUSED if isinstance(error, RefusedError) else RunStatus.FAILED
    # The message of an unforeseen error may quote a document.
    return empty_summary(status) | {"error": str(error) if isinstance(error, IndexerError) else type(error).__name__}


def _of_table(table: "TableState") -> dict[str, Any]:
    """Keys that describe a table; ``recall_epoch`` is the epoch for which its recall was last measured."""
    recall = table.recall
    return {
        **table.model_dump(include={"name", "width", "rows", "bytes", "index"}),
        "recall": None if recall is None else recall.share,
        "recall_epoch": None if recall is None else recall.epoch,
    }


def _of_epoch(epoch: "Epoch") -> dict[str, Any]:
    """Keys that describe an epoch."""
    described = epoch.description
    tables = [_of_table(table) for table in epoch.tables]
    documents = None if epoch.documents is None else epoch.documents.model_dump(include={"name", "rows", "bytes"})
    return {
        "epoch": epoch.number,
        "quarantine_reasons": described.quarantine_reasons,
        "gates": described.gates,
        "tables": tables,
        "documents_table": documents,
    }
