"""Does in both ways what a run does by what changed alone: comparisons, equal texts and sums must be the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from indexer.indexing import changes, equal_texts
from indexer.indexing.changes import Changes
from indexer.indexing.diff import RangeDiff, marked_rows
from indexer.indexing.job import Job
from indexer.indexing.scan import Unread
from indexer.publishing import identity
from indexer.publishing.identity import Identity
from indexer.storage import commits
from indexer.storage.control import ControlStore
from indexer.storage.records import Intent

COMPARED = {"alone": 0, "in full": 0}
"""How many comparisons of changed files alone there were, and of the whole corpus."""


SUMMED = {"updated": 0, "in full": 0}
"""How many tables were summed up by what changed, and how many in full."""


class OtherwiseError(AssertionError):
    """The two ways differ."""


def install() -> None:
    """Lets every run of this process compare, and sum up tables, in both ways."""
    _install_sums()
    _install_known()
    alone = changes._of_changed_files

    def compared(job: Job, cluster: Any, unread: Mapping[str, Unread]) -> tuple[Changes, list[RangeDiff]] | None:
        found = alone(job, cluster, unread)
        COMPARED["in full" if found is None else "alone"] += 1
        if found is not None:
            ours, theirs = (said(*way) for way in (found, changes._of_all_files(job, cluster, unread)))
            # Epochs of earlier versions do not tell the copies.
            named = [name for name in ours if name != "copied" or ours[name] is not None]
            wrong = [f"{name}: {ours[name]} is not {theirs[name]}" for name in named if ours[name] != theirs[name]]
            if wrong:
                raise OtherwiseError("; ".join(wrong))
        return found

    changes._of_changed_files = compared


def _install_sums() -> None:
    identity.FEW = 1  # most tables of tests are small
    updated = identity._updated

    def compared(uri: str, store: ControlStore, intent: Intent, added: Any, name: str, version: int) -> Identity | None:
        found = updated(uri, store, intent, added, name, version)
        SUMMED["in full" if found is None else "updated"] += 1
        # What others wrote after the commit is not the intent's; publishing then commits again.
        if found is not None and commits.holds(uri, name, version, intent.digest):
            whole = identity.of_table(uri, name, version)
            if found != whole:
                raise OtherwiseError(f"{name}: {found} is not {whole}")
        return found

    identity._updated = compared


def _install_known() -> None:
    known = equal_texts._known

    def compared(job: Job, cluster: Any, prefixes: np.ndarray, hashes: pl.Series | None) -> pl.DataFrame:
        found = known(job, cluster, prefixes, hashes)
        theirs = known(job, cluster, prefixes, None)
        if sorted(found.rows()) != sorted(theirs.rows()):
            raise OtherwiseError(f"{found} is not {theirs}")
        return found

    equal_texts._known = compared


def said(merged: Changes, found: list[RangeDiff]) -> dict[str, Any]:
    """All that a comparison says, in one order."""
    masks = {
        name: {file: marked_rows(mask).tolist() for file, mask in sorted(getattr(merged, name).items())}
        for name in ("masks", "payload_masks")
    }
    ids = {
        name: sorted(value for part in getattr(merged, name) for value in part.to_pylist())
        for name in ("deleted", "changed", "payload_changed")
    }
    return {
        **masks,
        **ids,
        "quarantine": sorted((row for part in merged.quarantine for row in part.to_pylist()), key=str),
        "differs": merged.differs,
        "copied": merged.copied and sorted((row for part in merged.copied for row in part.to_pylist()), key=str),
        "counts": dict(sorted(merged.counts.items())),
        "digests": merged.digests,
        "unread_rows": merged.unread_rows,
        "arrivals": sorted(np.concatenate([part.arrivals for part in found]).tolist()),
        "departures": sorted((row for part in found for row in part.departures.to_pylist()), key=str),
    }
