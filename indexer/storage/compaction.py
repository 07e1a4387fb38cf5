"""Compaction of a table's fragments: in one process, or in tasks that one commit ends."""

from collections.abc import Sequence
from typing import Any

import lance
from lance.optimize import Compaction

from indexer.errors import IndexerError, first_line
from indexer.storage.tables import open_version, table_path

ROWS_PER_FRAGMENT = 1 << 18
"""Rows to which maintenance compacts fragments. A part of an index is at least one: a million rows have four."""


def compact(dataset: lance.LanceDataset) -> int:
    """Compacts a table in this process; returns how many fragments were replaced."""
    return dataset.optimize.compact_files(target_rows_per_fragment=ROWS_PER_FRAGMENT).fragments_removed


def plan(uri: str, name: str) -> tuple[int, list[Any]]:
    """Tasks that compact the latest version of a table, each for :func:`rewrite`.

    Args:
        uri: LanceDB database.
        name: Table name.

    Returns:
        The version, and the tasks; they can be pickled.
    """
    dataset = lance.dataset(table_path(uri, name))
    return int(dataset.version), Compaction.plan(dataset, {"target_rows_per_fragment": ROWS_PER_FRAGMENT}).tasks


def rewrite(uri: str, name: str, version: int, task: Any) -> Any:
    """Writes the larger fragments of one task; no version of the table holds them yet.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Version that the plan is of.
        task: One of the plan's tasks.

    Returns:
        What :func:`commit` takes; it can be pickled.

    Raises:
        IndexerError: The files cannot be read or written.
    """
    try:
        return task.execute(open_version(uri, name, version))
    except (OSError, RuntimeError, ValueError) as error:
        raise IndexerError(f"cannot compact table {name}: {first_line(error)}") from None


def commit(uri: str, name: str, version: int, rewritten: Sequence[Any]) -> int:
    """Replaces fragments by the larger ones, in one commit. Rows of existing indices are renumbered in this process.

    Args:
        uri: LanceDB database.
        name: Table name.
        version: Version that the plan is of.
        rewritten: Results of :func:`rewrite`, of all tasks of the plan.

    Returns:
        How many fragments were replaced.

    Raises:
        IndexerError: Another process changed the same fragments since.
    """
    try:
        return int(Compaction.commit(open_version(uri, name, version), list(rewritten)).fragments_removed)
    except (OSError, RuntimeError, ValueError) as error:
        raise IndexerError(f"cannot compact table {name}: {first_line(error)}") from None
