"""The keys of a run's summary with the values of a run that did nothing.

Nothing here needs a package that is to be installed: a run that lacks one has a summary too.
"""

from typing import Any

COUNTS = (
    *("documents", "indexed", "quarantined", "truncated", "chunks", "tokens"),
    *("resumed_shards", "resumed_tokens", "restarts", "tokens_per_second", "gpus", "ready_gpu_hours", "embedded"),
    "compile_seconds",
    *("new", "changed", "payload_changed", "unchanged", "deleted", "moved", "copied", "kept", "duplicates"),
)


def empty_summary(status: str) -> dict[str, Any]:
    """Every key of a summary.

    Args:
        status: How the run ended.
    """
    return {
        "status": str(status),
        "epoch": None,
        **dict.fromkeys(COUNTS, 0),
        "quarantine_reasons": {},
        "gates": {},
        "maintenance": {},
        "tables": [],
        "documents_table": None,
        "seconds": 0,
        "stages": {},
        "worker_stages": {},
        "fallbacks": [],
        "error": None,
        "report": None,
    }
