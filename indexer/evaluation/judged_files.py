"""Reads columns of the files that queries and judgements come in: Parquet, JSON lines, TSV and CSV, as text."""

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from indexer.corpus.formats import PARQUET
from indexer.corpus.listing import list_files
from indexer.corpus.places import read_small_file
from indexer.errors import CorpusError
from indexer.uris import shown

ACCEPTED = (
    "Parquet (a file, directory or glob), .jsonl, and .tsv or .csv with a header line; text is UTF-8, and may be "
    "compressed as .gz"
)

SURROGATE = re.compile("[\ud800-\udfff]")

Row = Mapping[str, Any]


class _Unreadable(Exception):
    """What is wrong with a file; without its content."""


def read_columns(uri: str, setting: str, columns: Mapping[str, str]) -> pl.DataFrame:
    """Columns of a file as text.

    Args:
        uri: Where the file is.
        setting: Name of the setting that gave it, for errors.
        columns: Our names by the file's.

    Returns:
        Columns of type String under our names; null where the file has no value.

    Raises:
        CorpusError: The file cannot be read or lacks a column; names the line and the accepted formats.
    """
    name = uri.lower().removesuffix(".gz")
    reader = next((read for suffix, read in _READERS.items() if name.endswith(suffix)), None)
    try:
        if reader is None:
            return _of_parquet(uri, setting, columns)
        text = _decoded(_unpacked(read_small_file(uri, setting), packed=name != uri.lower()))
        return _frame(list(reader(text)), uri, setting, columns)
    except _Unreadable as error:
        raise CorpusError(f"{setting}: {shown(uri)} cannot be read: {error}; accepted are {ACCEPTED}") from None


def _of_parquet(uri: str, setting: str, columns: Mapping[str, str]) -> pl.DataFrame:
    """The columns of all Parquet files under a URI, as text."""
    files = [read_small_file(uri, setting, file) for file in list_files(uri, setting, [PARQUET])]
    try:
        frame = pl.concat([pl.read_parquet(io.BytesIO(file), columns=list(columns)) for file in files])
        return frame.select(pl.col(theirs).cast(pl.String).alias(ours) for theirs, ours in columns.items())
    except pl.exceptions.ColumnNotFoundError:
        raise CorpusError(_lacking(uri, setting, columns)) from None
    except pl.exceptions.PolarsError as error:
        # The message may quote what is in the file.
        raise _Unreadable(
            f"it is not Parquet, or a column is not of text or numbers ({type(error).__name__})"
        ) from None


def _unpacked(content: bytes, *, packed: bool) -> bytes:
    try:
        return gzip.decompress(content) if packed else content
    except (OSError, EOFError, zlib.error):
        raise _Unreadable("it ends with .gz and is not gzip, or is damaged") from None


def _decoded(content: bytes) -> str:
    """Text without the byte-order mark that Windows programs put before it."""
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _Unreadable(f"line {line} is not UTF-8 (Latin-1 or UTF-16?)") from None


def _json_rows(text: str) -> Iterator[Row]:
    """Objects of JSON Lines."""
    # Not splitlines(): a string in JSON may hold U+2028 as it is.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise _Unreadable(f"line {number} is not JSON") from None
        if not isinstance(row, dict):
            raise _Unreadable(f"line {number} is JSON but no object")
        yield {name: _as_text(value, number, name) for name, value in row.items()}


def _as_text(value: object, line: int, name: str) -> object:
    """Values under names that nobody asks for may be anything: they are refused when they are asked for."""
    if isinstance(value, str) and SURROGATE.search(value):
        return _Unreadable(f"line {line}: {name} holds half of a surrogate pair, which is no text")
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return _Unreadable(f"line {line}: {name} is neither text nor a number")


def _tab_rows(text: str) -> Iterator[Row]:
    """Fields as they stand: quotes mean nothing in the layout of BEIR."""
    lines = ((number, line.removesuffix("\r").split("\t")) for number, line in enumerate(text.split("\n"), 1))
    return _headed((number, fields) for number, fields in lines if fields != [""])


def _comma_rows(text: str) -> Iterator[Row]:
    """Fields of CSV, quoted where a program quoted them."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from _headed((reader.line_num, fields) for fields in reader if fields)
    except csv.Error as error:
        raise _Unreadable(f"line {reader.line_num} is not CSV: {error}") from None


def _headed(lines: Iterator[tuple[int, Sequence[str]]]) -> Iterator[Row]:
    """Rows under the names of the first line; a row may lack its last fields, and an empty field is null."""
    _, names = next(lines, (0, []))
    for number, fields in lines:
        if len(fields) > len(names):
            raise _Unreadable(f"line {number} has {len(fields)} fields, the first line names {len(names)}")
        yield {name: value or None for name, value in zip(names, fields, strict=False)}


_READERS: Mapping[str, Callable[[str], Iterator[Row]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".tsv": _tab_rows,
    ".csv": _comma_rows,
}


def _frame(rows: Sequence[Row], uri: str, setting: str, columns: Mapping[str, str]) -> pl.DataFrame:
    """Rows as a table of the wanted columns; refuses a value that cannot be read and is wanted."""
    known = {name for row in rows for name in row}
    if not columns.keys() <= known:
        raise CorpusError(_lacking(uri, setting, columns))
    values = {ours: [row.get(theirs) for row in rows] for theirs, ours in columns.items()}
    odd = next((value for column in values.values() for value in column if isinstance(value, _Unreadable)), None)
    if odd is not None:
        raise odd
    return pl.DataFrame(values, schema=dict.fromkeys(values, pl.String))


def _lacking(uri: str, setting: str, columns: Mapping[str, str]) -> str:
    # Which columns there are is not said: of a file without a header they would be its first row.
    return f"{setting}: {shown(uri)} lacks a column of {', '.join(columns)}; accepted are {ACCEPTED}"
