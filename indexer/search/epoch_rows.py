"""Rows of one epoch's tables with their payload, which stands in the width tables or in the table of documents."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import pyarrow as pa

from indexer import schema
from indexer.search.hits import Hit
from indexer.storage import filters, lookups, tables
from indexer.storage.documents_table import DocumentsTable
from indexer.storage.filters import Condition
from indexer.storage.records import Epoch, TableState


class EpochRows:
    """Reads rows of one epoch, for any number of threads."""

    def __init__(self, uri: str, epoch: Epoch) -> None:
        """Wraps an epoch; tables are opened when they are first read.

        Args:
            uri: LanceDB database.
            epoch: The epoch.
        """
        self._uri, self._epoch = uri, epoch
        self._schemas: dict[str, pa.Schema] = {}  # a version never changes
        self._asking = threading.Lock()
        self._asked: dict[Condition, Condition] = {}  # the last one: it is checked first, and then searched with

    @cached_property
    def documents(self) -> DocumentsTable | None:
        """The table of documents; ``None`` where the width tables have the whole payload."""
        state = self._epoch.documents
        return None if state is None else DocumentsTable(self._uri, state.name, state.version)

    def stored_schema(self, state: TableState) -> pa.Schema:
        """Schema of a width table as it is stored."""
        if state.name not in self._schemas:
            self._schemas[state.name] = tables.table_schema(self._uri, state.name, state.version)
        return self._schemas[state.name]

    def schema(self, state: TableState) -> pa.Schema:
        """Schema of a width table's rows with their whole payload."""
        stored = self.stored_schema(state)
        if self.documents is None:
            return stored
        first = self.documents.schema
        columns = [*first, *(field for field in stored if field.name not in first.names)]
        return pa.schema(columns, metadata=stored.metadata)

    def beside(self, state: TableState, columns: Sequence[str]) -> list[str]:
        """The columns that only the table of documents has."""
        if self.documents is None:
            return []
        stored, there = self.stored_schema(state).names, self.documents.schema.names
        return [name for name in columns if name in there and name not in stored]

    def batches(self, state: TableState, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Streams columns of a width table's rows, in no particular order."""
        stored = self._stored_columns(state, columns)
        for batch in tables.read(self._uri, state.name, state.version, stored):
            yield from self._joined(pa.Table.from_batches([batch]), columns).to_batches()

    def lookup(self, state: TableState, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Rows of some documents in a width table, all their chunks, in no particular order."""
        stored = self._stored_columns(state, columns)
        return self._joined(lookups.lookup(self._uri, state.name, state.version, ids, stored), columns)

    def payload(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Rows of some documents in the smallest table with the whole payload, in no particular order."""
        if self.documents is not None:
            return self.documents.rows(ids, columns)
        return self.lookup(self._epoch.tables[-1], ids, columns)

    def with_payload(
        self, state: TableState, found: Sequence[Sequence[Hit]], columns: Sequence[str]
    ) -> list[list[Hit]]:
        """Hits of a width table with columns that it has not.

        Args:
            state: The table.
            found: The hits of some queries.
            columns: Columns of the payload that hits are to have.
        """
        missing = self.beside(state, columns)
        if self.documents is None or not missing:
            return [list(hits) for hits in found]
        ids = sorted({hit.id for hits in found for hit in hits})
        rows = self.documents.rows(ids, [schema.ID, *missing]).to_pylist()
        known = {row.pop(schema.ID): row for row in rows}
        return [[_with_columns(hit, known[hit.id], columns) for hit in hits] for hits in found]

    def of_documents(self, where: Condition) -> Condition:
        """Condition on the rows of the documents that meet a condition on the table of documents.

        Raises:
            SettingsError: The condition is not valid.
        """
        if self.documents is None:
            return where
        with self._asking:
            if where not in self._asked:
                self._asked = {where: Condition(filters.one_of(schema.ID, self.documents.ids(where)))}
            return self._asked[where]

    def _stored_columns(self, state: TableState, columns: Sequence[str]) -> list[str]:
        """Columns to read from a width table, so that the others can be joined."""
        beside = self.beside(state, columns)
        if not beside:
            return list(columns)
        return list(dict.fromkeys([schema.ID, *(name for name in columns if name not in beside)]))

    def _joined(self, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
        """Rows of a width table with exactly these columns."""
        whole = rows if self.documents is None else self.documents.joined(rows, columns)
        return whole.select(list(columns))


def _with_columns(hit: Hit, row: dict[str, object], columns: Sequence[str]) -> Hit:
    """The hit with further payload, in the order of the columns."""
    payload = hit.payload | row
    return replace(hit, payload={name: payload[name] for name in columns})
