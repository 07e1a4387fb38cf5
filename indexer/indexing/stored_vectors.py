"""Vectors of an epoch at any width and precision that follow from what it stores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from indexer import schema
from indexer.inference import matryoshka
from indexer.schema import Layout
from indexer.storage import lookups, tables, vector_columns
from indexer.storage.records import Epoch, TableState

CHUNK_COLUMNS = (schema.ID, schema.CHUNK, schema.CHAR_START, schema.CHAR_END)


def chunk_columns(layout: Layout) -> list[str]:
    """Columns of a row that follow from the text alone."""
    return [*CHUNK_COLUMNS, *([schema.CHUNK_HASH] if layout.chunk_hashes else []), schema.VECTOR]


@dataclass(frozen=True)
class StoredVectors:
    """The width tables of an epoch.

    Attributes:
        uri: LanceDB database.
        by_width: Name and version of every width table.
    """

    uri: str
    by_width: Mapping[int, tuple[str, int]]

    @classmethod
    def of(cls, uri: str, epoch: Epoch) -> "StoredVectors":
        """The tables of an epoch."""
        return cls(uri, {table.width: (table.name, table.version) for table in epoch.tables})

    @property
    def widest(self) -> tuple[str, int]:
        """Name and version of the widest table."""
        return self.by_width[max(self.by_width)]

    def rows(self, ids: Sequence[str], width: int, layout: Layout) -> pa.Table:
        """Chunks of some documents, in no particular order.

        Args:
            ids: Their ids in the epoch.
            width: Width of the vectors.
            layout: Gives the precision of the vectors.

        Returns:
            Columns of :func:`chunk_columns`.
        """
        name, version = self.by_width.get(width, self.widest)
        found = lookups.lookup(self.uri, name, version, ids, chunk_columns(layout))
        return found.set_column(
            found.schema.get_field_index(schema.VECTOR),
            schema.VECTOR,
            at_width(found[schema.VECTOR], width, layout.precision),
        )


def source_table(epoch: Epoch, width: int) -> TableState:
    """The table that gives a width: its own where there is one, since it is exact, else the widest."""
    return next((table for table in epoch.tables if table.width == width), epoch.tables[0])


def at_width(vectors: pa.Array | pa.ChunkedArray, width: int, precision: str) -> pa.Array:
    """Stored vectors at a width and precision, unit vectors as they were; unchanged where they fit.

    Args:
        vectors: Unit vectors, one or several of each row.
        width: At most their length.
        precision: ``float32`` or ``float16``.
    """
    whole = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    if tables.is_multivector(whole.type):
        return vector_columns.grouped(at_width(whole.flatten(), width, precision), vector_columns.counts(whole))
    wanted = schema.ARROW_PRECISION[precision]
    if (whole.type.list_size, whole.type.value_type) == (width, wanted):
        return whole
    found = tables.to_matrix(whole)
    if whole.type.list_size != width:
        found = matryoshka.cut(found, width)
    return matryoshka.fixed_size_list(found, precision)
