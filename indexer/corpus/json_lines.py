"""JSON Lines: an object per line."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from indexer.corpus.files import DataFile
from indexer.corpus.lines import Lines
from indexer.corpus.open_file import WantedTypes
from indexer.corpus.parsed import REFUSED
from indexer.corpus.places import Place
from indexer.corpus.text_rows import Row, TextRows
from indexer.corpus.types import wider_type


class JsonLines(TextRows[bytes]):
    """Rows of a file of JSON Lines; blank lines are no rows."""

    kind = "JSON Lines"
    may_be_empty = True

    def _begin(self, lines: Lines) -> list[str]:  # noqa: ARG002  # a format without a header
        return []

    def _raw(self, lines: Lines) -> Iterator[bytes]:
        return (line for line in lines if not line.isspace())

    def _parse(self, raw: bytes) -> Row | None:
        """The object of a line; ``None`` if it holds none."""
        try:
            # A byte that is not UTF-8 becomes half of a surrogate pair: the fault of its value, not of the line.
            row = json.loads(raw.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            return None
        return row if isinstance(row, dict) else None

    def _infer(self, values: Sequence[object]) -> pa.DataType:
        """The type that Arrow finds for the values; where they contradict each other, of the first it can type."""
        some = [value for value in values if value is not None]
        for sample in (some, *([value] for value in some)):
            try:
                return pa.array(sample).type
            except REFUSED:
                continue
        return pa.string() if some else pa.null()


def widened(stored: pa.DataType, found: pa.DataType) -> pa.DataType | None:
    """The type that holds stored values and those of a sample; of numbers only integers have one spelling as text."""
    if pa.types.is_integer(stored) and pa.types.is_string(found):
        return found
    return wider_type(stored, found)


@contextmanager
def open_json_lines(place: Place, file: DataFile, wanted: WantedTypes) -> Iterator[JsonLines]:
    """Opens a file of JSON Lines; raises :class:`BadFile` as :class:`TextRows` does."""
    yield JsonLines(place, file, wanted)
