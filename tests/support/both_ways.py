"""Compares the corpus in both ways wherever a run compares changed files alone: both must say the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from indexer.indexing import changes
from indexer.indexing.changes import Changes
from indexer.indexing.diff import RangeDiff, merge_masks
from indexer.indexing.job import Job
from indexer.indexing.scan import Unread

COMPARED = {"alone": 0, "in full": 0}
"""How many comparisons of changed files alone there were, and of the whole corpus."""


class OtherwiseError(AssertionError):
    """The two ways differ."""


def install() -> None:
    """Lets every run of this process compare in both ways."""
    alone = changes._of_changed_files

    def compared(job: Job, cluster: Any, unread: Mapping[str, Unread]) -> tuple[Changes, list[RangeDiff]] | None:
        found = alone(job, cluster, unread)
        COMPARED["in full" if found is None else "alone"] += 1
        if found is not None:
            ours, theirs = (said(*way) for way in (found, changes._of_all_files(job, cluster, unread)))
            wrong = [f"{name}: {ours[name]} is not {theirs[name]}" for name in ours if ours[name] != theirs[name]]
            if wrong:
                raise OtherwiseError("; ".join(wrong))
        return found

    changes._of_changed_files = compared


def said(merged: Changes, found: list[RangeDiff]) -> dict[str, Any]:
    """All that a comparison says, in one order."""
    masks = {
        name: {file: merge_masks(parts).tolist() for file, parts in sorted(getattr(merged, name).items())}
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
        "counts": dict(sorted(merged.counts.items())),
        "digests": merged.digests,
        "arrivals": sorted(np.concatenate([part.arrivals for part in found]).tolist()),
        "departures": sorted((row for part in found for row in part.departures.to_pylist()), key=str),
    }
