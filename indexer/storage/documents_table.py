"""The table of documents, which has the payload once where the width tables do not repeat it."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.errors import SettingsError, first_line
from indexer.storage.lookups import lookup_in
from indexer.storage.tables import open_version


class DocumentsTable:
    """The table at one version, for any number of threads; what a look-up has read of its index stays in memory."""

    def __init__(self, uri: str, name: str, version: int) -> None:
        """Opens the table.

        Args:
            uri: LanceDB database.
            name: Its name.
            version: Its version.

        Raises:
            IndexerError: It cannot be opened.
        """
        self._dataset = open_version(uri, name, version)
        self.schema: pa.Schema = self._dataset.schema

    def rows(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Rows of some documents, in no particular order."""
        return lookup_in(self._dataset, ids, columns)

    def joined(self, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
        """Rows of a width table with the columns that they lack.

        Args:
            rows: Rows with their document's id, in any order.
            columns: Columns wanted; those that the rows have, and those that this table lacks, are left alone.

        Returns:
            The rows in their order, with the further columns last.
        """
        missing = [name for name in columns if name in self.schema.names and name not in rows.schema.names]
        if not missing:
            return rows
        found = self.rows(pc.unique(rows[schema.ID]).to_pylist(), [schema.ID, *missing])
        places = pc.index_in(rows[schema.ID], value_set=found[schema.ID])
        for name in missing:
            rows = rows.append_column(self.schema.field(name), found[name].take(places))
        return rows

    def ids(self, where: str) -> list[str]:
        """Ids of the documents that meet a condition.

        Raises:
            SettingsError: The condition is not valid.
        """
        try:
            found = self._dataset.scanner(columns=[schema.ID], filter=where).to_table()
        except (ValueError, OSError) as error:
            raise SettingsError(f"the condition is refused: {first_line(error)}") from None
        return found[schema.ID].to_pylist()
