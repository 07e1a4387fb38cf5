"""The gates on a comparison: caps on what a night may remove, quarantine and embed again."""

from indexer.indexing.changes import Changes
from indexer.indexing.job import Job
from indexer.publishing.gates import Gate, count_gates, file_gate


def of_comparison(job: Job, found: Changes, unread: int) -> list[Gate]:
    """Gates that can be measured before anything is embedded.

    Args:
        job: The run's inputs.
        found: The comparison.
        unread: Files that cannot be read.
    """
    return [file_gate(unread, len(job.corpus.files), job.settings.gates), *of_counts(job, found, unread)]


def of_counts(job: Job, found: Changes, unread: int, refused: int = 0) -> list[Gate]:
    """Gates on numbers of documents.

    Args:
        job: The run's inputs.
        found: The comparison.
        unread: Files that cannot be read.
        refused: Documents that workers refused.
    """
    counts = found.counts | {"quarantined": found.counts["quarantined"] + refused}
    before = job.latest.description.documents if job.latest else 0
    if job.published is None:
        # A rebuild compares with nothing, so that it deletes nothing. Documents that only the old index has count here.
        usable = counts["documents"] - counts["quarantined"] - counts["duplicates"]
        counts["deleted"] = max(0, before - usable)
    hidden = found.unread_rows - unread  # rows of files that count as one row each
    counts |= {name: counts[name] + hidden for name in ("documents", "quarantined")}
    return count_gates(counts, before, job.settings.gates, job.settings.run.max_quarantine)
