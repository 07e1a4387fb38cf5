"""CSV and TSV (RFC 4180): a header, then a row of fields per line; quoted fields may hold newlines."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from indexer.corpus.files import DataFile
from indexer.corpus.lines import Lines
from indexer.corpus.open_file import WantedTypes
from indexer.corpus.parsed import INTEGER, LEADING_ZERO, is_rounded
from indexer.corpus.places import Place
from indexer.corpus.text_rows import Row, TextRows, is_text
from indexer.corpus.types import wider_type
from indexer.errors import BadFile

BOOLEANS = frozenset({"true", "false"})


class Csv(TextRows[list[str] | None]):
    """Rows of a CSV file. An empty field is null, since CSV has no other; blank lines are no rows."""

    kind = "CSV"
    delimiter = ","

    def _begin(self, lines: Lines) -> list[str]:
        """The columns: the first row that is not empty."""
        self._names = next((row for row in self._raw(lines) if row), [])
        if not all(map(is_text, self._names)):
            raise BadFile(f"{self._file.path}: not {self.kind}: the name of a column is not UTF-8")
        return self._names

    def _raw(self, lines: Lines) -> Iterator[list[str] | None]:
        """Rows as lists of fields; ``None`` for a row that is not of this format."""
        ended = False

        def texts() -> Iterator[str]:
            nonlocal ended
            for line in lines:
                yield line.decode("utf-8", "surrogateescape")
            ended = True

        # Python's own cap is 128 kB for a field.
        csv.field_size_limit(sys.maxsize)
        reader = csv.reader(texts(), delimiter=self.delimiter, strict=True)
        while True:
            try:
                row = next(reader, None)
            except csv.Error:
                if ended:
                    raise BadFile(f"{self._file.path}: damaged: it ends inside a quoted field") from None
                yield None
                continue
            if row is None:
                return
            if row:
                yield row

    def _parse(self, raw: list[str] | None) -> Row | None:
        if raw is None or len(raw) != len(self._names):
            return None
        return dict(zip(self._names, (field or None for field in raw), strict=True))

    def _infer(self, values: Sequence[object]) -> pa.DataType:
        """The narrowest type that takes every value; numbers with leading zeros stay text."""
        some = [str(value) for value in values if value is not None]
        if not some:
            return pa.null()
        if all(value.lower() in BOOLEANS for value in some):
            return pa.bool_()
        if any(LEADING_ZERO.match(value) for value in some):
            return pa.string()
        if _are(some, pa.int64()):
            return pa.int64()
        # Integers alone are numbers of things: one digit less names another.
        is_rounding = any(map(is_rounded, some)) and all(map(INTEGER.fullmatch, some))
        return pa.float64() if _are(some, pa.float64()) and not is_rounding else pa.string()


def _are(values: Sequence[str], type_: pa.DataType) -> bool:
    """Whether Arrow reads all values as a type."""
    try:
        pa.array(values, pa.string()).cast(type_)
    except (pa.ArrowException, UnicodeEncodeError):
        return False
    return True


class Tsv(Csv):
    """Rows of a file with tabs between the fields."""

    kind = "TSV"
    delimiter = "\t"


def widened(stored: pa.DataType, found: pa.DataType) -> pa.DataType:
    """The type that holds stored values and those of a sample: a field of any type is text as it stands."""
    return wider_type(stored, found) or pa.string()


@contextmanager
def open_csv(place: Place, file: DataFile, wanted: WantedTypes) -> Iterator[Csv]:
    """Opens a CSV file; raises :class:`BadFile` as :class:`TextRows` does, and where a quoted field never ends."""
    yield Csv(place, file, wanted)


@contextmanager
def open_tsv(place: Place, file: DataFile, wanted: WantedTypes) -> Iterator[Csv]:
    """Opens a TSV file, see :func:`open_csv`."""
    yield Tsv(place, file, wanted)
