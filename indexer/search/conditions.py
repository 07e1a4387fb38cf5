"""Conditions that rows must meet before they are searched, also on columns that only the table of documents has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from indexer import schema
from indexer.errors import SettingsError
from indexer.search.epoch_rows import EpochRows
from indexer.storage import filters, tables, where
from indexer.storage.filters import Condition
from indexer.storage.records import TableState

OF_CHUNKS = frozenset({schema.CHUNK, schema.CHAR_START, schema.CHAR_END, schema.CHUNK_HASH})
"""Columns of which every chunk of a document has its own value."""


@dataclass(frozen=True)
class Wanted:
    """The same condition for both kinds of search.

    Attributes:
        vectors: For a width table; ``None`` for all rows.
        words: For the table with the full-text index, which has every column.
    """

    vectors: Condition | None = None
    words: Condition | None = None


def resolve(uri: str, rows: EpochRows, state: TableState, condition: str | None, values: Mapping[str, Any]) -> Wanted:
    """Brings a condition to where it can be answered.

    A condition on columns that only the table of documents has is answered there first; then the vectors of the
    documents that meet it are searched.

    Args:
        uri: LanceDB database.
        rows: The epoch.
        state: The width table that is searched.
        condition: SQL condition, ``None`` for none.
        values: Values that columns must have, as in :func:`indexer.storage.filters.matches`.

    Raises:
        SettingsError: The condition is not valid, or a value does not fit its column.
    """
    if condition is None and not values:
        return Wanted()
    table = rows.schema(state)
    given = None if condition is None else where.condition(condition, table)
    both = filters.all_of(given, filters.matches(values, table))
    if both is None:
        return Wanted()
    whole = Condition(both)
    names = where.names(whole)
    beside = rows.beside(state, sorted(names))
    if not beside or rows.documents is None:
        tables.check_condition(uri, state.name, state.version, whole)
        return Wanted(whole, whole)
    if names & OF_CHUNKS:
        raise SettingsError(
            f"one condition on {beside[0]!r}, which stands once per document, and on "
            f"{min(names & OF_CHUNKS)!r}, which is of chunks, cannot be answered: add {beside[0]!r} to index.filters"
        )
    return Wanted(rows.of_documents(whole), whole)
