"""Pieces of a published table: ranges of rows of one fragment, to read a large table in parallel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from indexer.storage.tables import open_version


@dataclass(frozen=True)
class TablePiece:
    """Some rows of a table at a published version.

    Attributes:
        name: Table name.
        version: Its version.
        fragment: Id of the fragment.
        start: First row, counted without deleted ones.
        rows: Number of rows.
    """

    name: str
    version: int
    fragment: int
    start: int
    rows: int


def cut(uri: str, name: str, version: int, rows: int) -> Iterator[TablePiece]:
    """Cuts a published table into pieces of at most ``rows`` rows; the same version always gives the same pieces.

    Raises:
        IndexerError: The version cannot be opened.
    """
    for fragment in open_version(uri, name, version).get_fragments():
        count = int(fragment.count_rows())
        for start in range(0, count, rows):
            yield TablePiece(name, version, int(fragment.fragment_id), start, min(rows, count - start))


def read(uri: str, piece: TablePiece, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Streams columns of a piece, in the order of its rows."""
    dataset = open_version(uri, piece.name, piece.version)
    fragments = [fragment for fragment in dataset.get_fragments() if fragment.fragment_id == piece.fragment]
    scanner = dataset.scanner(columns=list(columns), fragments=fragments, offset=piece.start, limit=piece.rows)
    yield from scanner.to_batches()
