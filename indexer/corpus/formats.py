"""Formats of a corpus's files: a file's name decides which one it has."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pyarrow as pa

from indexer.corpus import delimited, json_lines
from indexer.corpus.delimited import open_csv, open_tsv
from indexer.corpus.files import DataFile
from indexer.corpus.json_lines import open_json_lines
from indexer.corpus.lance_rows import MARK, find_file, list_fragments, open_fragment
from indexer.corpus.open_file import OpenFile, WantedTypes
from indexer.corpus.parquet import open_parquet
from indexer.corpus.places import Place, place_of
from indexer.errors import BadFile, CorpusError, first_line

PACKED = ("", ".gz", ".zst", ".bz2")
"""Suffixes of compressed text, after the format's own."""

Widen = Callable[[pa.DataType, pa.DataType], pa.DataType | None]
"""Of a stored type and that of a sample, the type that holds the values of both."""


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        name: Name, for people.
        suffixes: Suffixes of such files, in upper or lower case.
        open: Opens a file at a place; values of a format without types get the wanted types.
        find: The file of a path at a place, ``None`` if there is none.
        split: What is read as files each, by the path of one that is listed; the file itself by default.
        widen: For a format without types, a stored type that also holds what a sample of another type shows, ``None``
            if there is none; ``None`` for a format with types.
        has_keys: Whether each row names its columns: one that a row or file does not name is null there.
    """

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[Place, DataFile, WantedTypes], AbstractContextManager[OpenFile]]
    find: Callable[[Place, str], DataFile | None] = lambda place, path: place.find(path)
    split: Callable[[Place, str], list[DataFile]] | None = None
    widen: Widen | None = None
    has_keys: bool = False

    def has(self, path: str) -> bool:
        """Whether a file's name has one of the suffixes; a fragment's has its number after it."""
        return FRAGMENT.sub("", path).lower().endswith(self.suffixes)


def _packed(*suffixes: str) -> tuple[str, ...]:
    """The suffixes, also of compressed files."""
    return tuple(suffix + packed for suffix in suffixes for packed in PACKED)


FRAGMENT = re.compile(rf"{MARK}\d+$")
"""Number of a Lance fragment, after the dataset's path."""

PARQUET = Format("Parquet", (".parquet", ".parq", ".pq"), open_parquet)

FORMATS = (
    PARQUET,
    Format("Lance", (".lance",), open_fragment, find_file, list_fragments),
    Format("JSON Lines", _packed(".jsonl", ".ndjson"), open_json_lines, widen=json_lines.widened, has_keys=True),
    Format("CSV", _packed(".csv"), open_csv, widen=delimited.widened),
    Format("TSV", _packed(".tsv"), open_tsv, widen=delimited.widened),
)
"""The formats; a directory with files of several is read as the first of them."""


def format_of(path: str) -> Format:
    """Format of a file; one without a known suffix counts as Parquet."""
    return next((format_ for format_ in FORMATS if format_.has(path)), PARQUET)


@contextmanager
def open_file(uri: str, file: DataFile, wanted: WantedTypes | None = None) -> Iterator[OpenFile]:
    """Opens a file and checks that it has not changed since it was listed.

    Args:
        uri: URI it was listed at.
        file: The file.
        wanted: Types for formats without types; columns without one get that which the first rows show.

    Yields:
        The open file.

    Raises:
        BadFile: It has changed since, changes while it is open, or is not of its format.
    """
    try:
        place, _ = place_of(uri, file.path)
    except CorpusError as error:
        raise BadFile(str(error)) from None
    format_ = format_of(file.path)
    _check_same(format_, place, file)
    with format_.open(place, file, wanted or WantedTypes()) as opened:
        yield opened
    _check_same(format_, place, file)


def _check_same(format_: Format, place: Place, file: DataFile) -> None:
    """Refuses a file that differs from the listing."""
    try:
        found = format_.find(place, file.path)
    except OSError as error:
        raise BadFile(f"{file.path}: its size and time cannot be read: {first_line(error)}") from None
    if found is None:
        raise BadFile(
            f"{file.path}: is gone since it was listed, or its name is not UTF-8, which is shown as \\x..: rename it"
        )
    if not file.is_same(found):
        raise BadFile(f"{file.path}: changed since it was listed; run again")
