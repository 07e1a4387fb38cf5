"""Maintains the tables of an intent: what a large table lacks is built in parts, in tasks.

A part changes no table: one commit here makes all parts of an index its index. Where a part cannot be built, the task
that maintains the table does it alone, as for smaller tables.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from indexer.errors import IndexerError
from indexer.progress import say
from indexer.publishing import recall_records
from indexer.publishing.upkeep import BuiltParts, MaintainedTable, index_type, maintain_table, search_indices
from indexer.settings import GateSettings
from indexer.storage import compaction, exact_neighbours, index_parts, vector_index
from indexer.storage.index_spec import IndexSpec
from indexer.storage.records import Intent
from indexer.storage.search_indices import SearchIndices
from indexer.storage.vector_index import Recall

Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""Runs a function on every tuple of arguments, here or elsewhere, and yields the results in any order."""

SEARCH_PARTS = 64
"""Most tasks of one exact search."""


def maintain_tables(
    uri: str,
    index: str,
    intent: Intent,
    added: Mapping[str, Sequence[dict[str, Any]]],
    gates: GateSettings,
    parallel_rows: int,
    each: Each,
) -> list[MaintainedTable]:
    """Compacts, indexes and measures tables that an intent was committed to.

    Args:
        uri: LanceDB database.
        index: Name of the index.
        intent: The intent.
        added: The fragments that it added, by table.
        gates: Bounds.
        parallel_rows: Rows above which the work on one table is cut into tasks.
        each: Runs tasks.

    Returns:
        The tables, in any order.

    Raises:
        IndexerError: A table cannot be maintained.
    """
    metric = intent.metadata["metric"]
    built = {}
    for name in added:
        if vector_index.latest_rows(uri, name) > parallel_rows:
            kind, trained_rows = index_type(uri, name, intent), intent.trained_rows.get(name)
            built[name] = build_parts(uri, name, kind, metric, trained_rows, search_indices(name, intent), each)
    items = ((uri, index, name, intent, added[name], gates, built.get(name)) for name in added)
    return [
        _with_recall(uri, intent, table, gates, each)
        if table.recall is None and table.measured.index != vector_index.NO_INDEX
        else table
        for table in each(maintain_table, items)
    ]


def _with_recall(uri: str, intent: Intent, table: MaintainedTable, gates: GateSettings, each: Each) -> MaintainedTable:
    """A large table with the recall of its vector index, measured in tasks."""
    recall = measure_recall(uri, table.name, table.measured.version, intent.metadata["metric"], gates, each)
    record = recall_records.recorded(uri, table.name, intent, table.measured, gates, recall)
    return replace(table, recall=record)


def build_parts(
    uri: str, name: str, kind: str, metric: str, trained_rows: int | None, wanted: SearchIndices, each: Each
) -> BuiltParts:
    """Compacts a large table and builds the indices that it lacks, in tasks.

    Args:
        uri: LanceDB database.
        name: The table.
        kind: Type of the vector index, or ``none``.
        metric: Distance of the vector index.
        trained_rows: Rows the vector index was last trained on.
        wanted: Full-text and filter indices.
        each: Runs tasks.

    Returns:
        What was done; less than was wanted if tasks failed, which is printed.
    """
    done = BuiltParts()
    try:
        done = replace(done, compacted=_compact(uri, name, each))
        version, specs = index_parts.missing(uri, name, kind, metric, trained_rows, wanted)
        rows = vector_index.latest_rows(uri, name)
        for spec in _build(uri, name, version, specs, each):
            if spec.name == vector_index.NAME:
                done = replace(done, trained_rows=rows)
    except IndexerError as error:
        say(f"table {name}: {error}; one process does what is left", "WARNING")
    return done


def _compact(uri: str, name: str, each: Each) -> int:
    """Compacts a table; returns how many fragments were replaced."""
    version, tasks = compaction.plan(uri, name)
    if len(tasks) <= 1:
        return 0  # the task that maintains the table does as much itself
    rewritten = list(each(compaction.rewrite, ((uri, name, version, task) for task in tasks)))
    # In a task: rows of the indices are renumbered, whose memory grows with them.
    (replaced,) = each(compaction.commit, [(uri, name, version, rewritten)])
    return int(replaced)


def _build(uri: str, name: str, version: int, specs: Sequence[IndexSpec], each: Each) -> Iterator[IndexSpec]:
    """Builds indices, the parts of all at once; yields each once it is committed."""
    if not specs:
        return
    ranges = index_parts.fragment_ranges(uri, name, version)
    say(f"table {name}: building {len(specs)} indices in {len(ranges)} parts")
    complete = {spec.name: spec for spec in each(index_parts.complete, ((uri, name, version, spec) for spec in specs))}
    items = ((uri, name, version, spec, fragments) for spec in complete.values() for fragments in ranges)
    parts: dict[str, list[Any]] = defaultdict(list)
    for index, part in each(index_parts.build, items):
        parts[index].append(part)
        if len(parts[index]) == len(ranges):
            # In a task too: parts that are merged pass through its memory.
            list(each(index_parts.commit, [(uri, name, version, complete[index], parts[index])]))
            yield complete[index]


def measure_recall(uri: str, name: str, version: int, metric: str, gates: GateSettings, each: Each) -> Recall:
    """Measures a vector index against exact search, as :func:`indexer.storage.vector_index.measure_recall`, in tasks.

    Args:
        uri: LanceDB database.
        name: The table.
        version: Its version.
        metric: Distance of the index.
        gates: Number of queries, and the recall to reach.
        each: Runs tasks: one for every range of fragments searches exactly, then one searches by the index.

    Raises:
        IndexerError: The table cannot be searched in one process either.
    """
    try:
        return _agreement(uri, name, version, metric, gates, each)
    except IndexerError as error:
        say(f"table {name}: {error}; one process measures the recall", "WARNING")
    how = (uri, name, version, metric, gates.recall_queries, gates.recall)
    (recall,) = each(vector_index.measure_recall, [how])
    return recall


def _agreement(uri: str, name: str, version: int, metric: str, gates: GateSettings, each: Each) -> Recall:
    """One attempt of :func:`measure_recall`."""
    drawn = exact_neighbours.draw(uri, name, version, gates.recall_queries)
    ranges = index_parts.fragment_ranges(uri, name, version, SEARCH_PARTS)
    found = each(exact_neighbours.nearest, ((uri, name, version, drawn, fragments) for fragments in ranges))
    exact = exact_neighbours.merged(found)
    (recall,) = each(vector_index.agreement, [(uri, name, version, metric, drawn, exact, gates.recall)])
    return recall
