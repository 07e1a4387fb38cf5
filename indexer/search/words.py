"""Full-text search of an epoch. It ranks documents, whose searched columns every chunk of a width table repeats."""

from collections.abc import Sequence

from indexer import schema
from indexer.errors import SettingsError
from indexer.search.hits import Hit, shown_columns
from indexer.storage import filters, tables, text_index
from indexer.storage.records import DocumentsState, Epoch, TableState


def text_state(epoch: Epoch) -> TableState | DocumentsState:
    """The table with the epoch's full-text index; the one that will have it, while the epoch has no documents.

    Raises:
        SettingsError: There is none.
    """
    found = epoch.text_table
    if found is None and epoch.description.text is not None and not epoch.payload_table.rows:
        found = epoch.payload_table  # Lance builds no index of no rows
    if found is not None:
        return found
    raise SettingsError(
        f"epoch {epoch.number} has no full-text index: set index.text_search to payload columns and run jobs.index, "
        "which embeds nothing for it; or search with mode vector"
    )


class Words:
    """Full-text search of one epoch, by any number of threads."""

    def __init__(self, uri: str, epoch: Epoch) -> None:
        """Opens the table with the index once: what a search has read of an index stays in memory.

        Args:
            uri: LanceDB database.
            epoch: The epoch.

        Raises:
            SettingsError: The epoch has no full-text index.
        """
        self._epoch = epoch
        self._state = text_state(epoch)
        self._dataset = tables.open_version(uri, self._state.name, self._state.version)

    def documents(self, query: str, k: int, where: str | None, columns: Sequence[str] | None) -> list[Hit]:
        """Documents that share words with a query.

        Args:
            query: The query.
            k: Documents.
            where: SQL condition that rows must meet, before the search.
            columns: Payload columns and span of the hits, all by default.

        Returns:
            The documents, best first, as their first chunks.
        """
        if not self._state.rows:
            return []
        described = self._epoch.description
        # A filter on the chunk reads that column of every row, which is not needed where every row is a document.
        is_of_chunks = described.model.has_chunks and isinstance(self._state, TableState)
        first = filters.first_chunk() if is_of_chunks else None
        shown = shown_columns(self._dataset.schema.names) if columns is None else list(columns)
        rows = text_index.search(
            self._dataset,
            query,
            self._state.text,
            k,
            filters.all_of(where, first),
            [schema.ID, schema.CHUNK, *shown],
        )
        hits = []
        for rank, row in enumerate(rows, 1):
            name, chunk, score = str(row.pop(schema.ID)), int(row.pop(schema.CHUNK)), float(row.pop(text_index.SCORE))
            hits.append(Hit(name, chunk, score, None, row, described.skip_empty, text_rank=rank, text_score=score))
        return hits
