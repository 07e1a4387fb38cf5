"""The tables of one epoch, read and searched without an engine."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from indexer import schema
from indexer.errors import SettingsError
from indexer.search import conditions
from indexer.search.conditions import Wanted
from indexer.search.epoch_lease import EpochLease
from indexer.search.epoch_rows import EpochRows
from indexer.search.hits import Hit, joined_text, span_text
from indexer.search.vector_search import NearestOptions, VectorSearch
from indexer.search.words import Words
from indexer.storage import tables
from indexer.storage.records import Epoch, TableState
from indexer.storage.vector_columns import QueryVectors

if TYPE_CHECKING:
    from indexer.storage.tables import Table


class Snapshot:
    """One epoch of an index; later epochs do not change it.

    Attributes:
        uri: LanceDB database.
        epoch: The epoch.
        vectors: Search by vectors.
    """

    def __init__(self, uri: str, epoch: Epoch, lease: EpochLease | None = None) -> None:
        """Wraps an epoch.

        Args:
            uri: LanceDB database.
            epoch: The epoch.
            lease: Protects its versions; released when nothing refers to this snapshot any more.
        """
        self.uri = uri
        self.epoch = epoch
        self._lease = None if lease is None else weakref.finalize(self, lease.release)
        self._rows = EpochRows(uri, epoch)
        self.vectors = VectorSearch(uri, epoch, self._rows)

    def let_go(self) -> None:
        """Ends the protection of the epoch's versions."""
        if self._lease is not None:
            self._lease()

    def table(self, width: int | None = None) -> "Table":
        """LanceDB table of a width, the widest by default, at the published version, with the columns it stores.

        Raises:
            SettingsError: There is no table of that width.
        """
        state = self.state(width)
        return tables.search_table(self.uri, state.name, state.version)

    def read(self, width: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a width's table as Arrow, with the payload wherever it stands.

        Args:
            width: Width, the widest by default.
            columns: Columns to read, all by default.

        Returns:
            The rows, in no particular order.
        """
        target = self.schema(width)
        chosen = list(columns or target.names)
        return pa.Table.from_batches(self.batches(chosen, width), pa.schema([target.field(name) for name in chosen]))

    def schema(self, width: int | None = None) -> pa.Schema:
        """Schema of the rows of a width's table with their whole payload."""
        return self._rows.schema(self.state(width))

    def batches(self, columns: Sequence[str], width: int | None = None) -> Iterator[pa.RecordBatch]:
        """Streams columns of a width's table, rows in no particular order."""
        yield from self._rows.batches(self.state(width), columns)

    def at(self, uri: str, epoch: Epoch) -> "Snapshot":
        """The same index with other tables: copies, or a part of them."""
        return Snapshot(uri, epoch)

    def quarantine(self) -> pa.Table:
        """Rows of the quarantine, :data:`indexer.schema.QUARANTINE_SCHEMA`."""
        name, version = self.epoch.quarantine
        return tables.read_all(self.uri, name, version, schema.QUARANTINE_SCHEMA)

    @property
    def text_columns(self) -> list[str]:
        """Payload columns that hold the documents' text.

        Raises:
            SettingsError: The payload does not have them.
        """
        columns = self.epoch.description.text_columns
        missing = sorted(set(columns) - set(self.epoch.description.layout.payload))
        if missing:
            raise SettingsError(
                f"the tables do not hold the text: add {', '.join(missing)} to corpus.payload and reindex"
            )
        return columns

    def wanted(self, width: int | None, where: str | None, filters: Mapping[str, Any]) -> Wanted:
        """The conditions that rows must meet before they are searched; see :func:`conditions.resolve`.

        Raises:
            SettingsError: There is no table of that width, or no search of this epoch could use the condition.
        """
        return conditions.resolve(self.uri, self._rows, self.state(width), where, filters)

    def nearest(
        self,
        vectors: QueryVectors,
        k: int = 10,
        width: int | None = None,
        where: str | None = None,
        oversample: int = 1,
        columns: Sequence[str] | None = None,
        *,
        per_document: bool = False,
    ) -> list[list[Hit]]:
        """Nearest chunks of each vector.

        Args:
            vectors: float32, shape (n, dimension): full-width query vectors; of a late-interaction model an array of
                shape (tokens, dimension) of each query.
            k: Results per vector.
            width: Width to search at, the widest by default.
            where: SQL condition on columns of the rows.
            oversample: Above 1, this many times ``k`` hits are found and re-ranked at the full width.
            columns: Payload columns and span of the hits, all by default.
            per_document: Whether only the best chunk of a document is a result.

        Returns:
            For each vector its hits, best first.

        Raises:
            SettingsError: There is no such width, or the condition is not valid.
        """
        wanted = self.wanted(width, where, {}).vectors
        options = NearestOptions(k, wanted, oversample, columns, per_document)
        return list(self.vectors.stream(vectors, self.state(width), options))

    @cached_property
    def words(self) -> Words:
        """Full-text search.

        Raises:
            SettingsError: The epoch has no full-text index.
        """
        return Words(self.uri, self.epoch)

    def texts(self, ids: Sequence[str], chunks: Sequence[int] | None = None) -> list[str | None]:
        """Texts of documents, or of their chunks, from the payload.

        Args:
            ids: Document ids.
            chunks: A chunk of each; without them the texts are whole.

        Returns:
            A text for each id, ``None`` where the index has no such document.

        Raises:
            SettingsError: The payload does not hold the text.
        """
        columns = self.text_columns
        skip = self.epoch.description.skip_empty
        if chunks is None:
            rows = self._rows.payload(ids, [schema.ID, *columns]).to_pylist()
            whole = {row[schema.ID]: joined_text(row, columns, skip_empty=skip) for row in rows}
            return [whole.get(name) for name in ids]
        rows = self.rows(ids, [schema.ID, schema.CHUNK, schema.CHAR_START, schema.CHAR_END, *columns]).to_pylist()
        spans = {(row[schema.ID], row[schema.CHUNK]): span_text(row, columns, skip_empty=skip) for row in rows}
        return [spans.get(key) for key in zip(ids, chunks, strict=True)]

    def column(self, ids: Sequence[str], name: str) -> list[Any]:
        """Values of a payload column.

        Args:
            ids: Document ids.
            name: The column.

        Returns:
            A value for each id, ``None`` where the index has no such document.

        Raises:
            SettingsError: The payload does not have the column.
        """
        payload = self.epoch.description.layout.payload
        if name not in payload:
            raise SettingsError(f"the tables have no column {name!r}; the payload is {', '.join(payload) or 'empty'}")
        rows = self._rows.payload(ids, [schema.ID, name])
        values = dict(zip(rows[schema.ID].to_pylist(), rows[name].to_pylist(), strict=True))
        return [values.get(key) for key in ids]

    def rows(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Rows of some documents, all their chunks, in no particular order, from the narrowest table."""
        return self._rows.lookup(min(self.epoch.tables, key=lambda table: table.width), ids, columns)

    def state(self, width: int | None = None) -> TableState:
        """The epoch's record of a width's table, the widest by default.

        Raises:
            SettingsError: There is no table of that width.
        """
        by_width = {state.width: state for state in self.epoch.tables}
        wanted = max(by_width) if width is None else width
        if wanted not in by_width:
            raise SettingsError(f"no table of width {wanted}; there are {', '.join(map(str, sorted(by_width)))}")
        return by_width[wanted]
