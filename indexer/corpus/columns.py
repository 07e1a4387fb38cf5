"""Columns of a corpus's files: those that a file must have, and the types that the payload is stored with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from indexer.corpus.files import DataFile
from indexer.corpus.formats import Widen, format_of
from indexer.corpus.open_file import OpenFile, WantedTypes
from indexer.corpus.types import common_type, holds_null_type, normal_type
from indexer.errors import WrongColumns
from indexer.settings import CorpusSettings

NULL = pa.null()


def columns_of(opened: OpenFile, settings: CorpusSettings, file: DataFile) -> pa.Schema:
    """Payload columns of a file with their stored types, its other columns checked.

    Returns:
        The columns; a key that no row shows and that rows may lack is Arrow's ``null``.

    Raises:
        WrongColumns: A column is missing or has a type that cannot be used.
    """
    schema = opened.schema
    texts, payload = settings.text_columns, settings.payload
    if format_of(file.path).has_keys:
        if not schema.names and not opened.count_rows():
            return pa.schema([(name, NULL) for name in payload])
        # Without any text the file is of something else, or the setting names what is nowhere.
        texts = [name for name in texts if name in schema.names] or texts
        payload = [name for name in payload if _has(schema, name, file)]
    _check_names(schema, [settings.id_column, *texts], file, [])
    _check_names(schema, payload, file, list(file.partitions))
    id_type = normal_type(schema.field(settings.id_column).type)
    if not (pa.types.is_string(id_type) or pa.types.is_integer(id_type) or pa.types.is_null(id_type)):
        raise WrongColumns(f"{file.path}: id column {settings.id_column!r} is {id_type}; ids are strings or integers")
    for name in texts:
        text_type = normal_type(schema.field(name).type)
        if not (pa.types.is_string(text_type) or pa.types.is_null(text_type)):
            raise WrongColumns(f"{file.path}: text column {name!r} is {text_type}, not a string")
    return pa.schema([(name, _type_in(schema, name, file)) for name in settings.payload])


def _has(schema: pa.Schema, name: str, file: DataFile) -> bool:
    """Whether a file or its directories have a payload column."""
    return name in schema.names or name in file.partitions


def _type_in(schema: pa.Schema, name: str, file: DataFile) -> pa.DataType:
    """Stored type of a payload column in a file; null where rows may lack it and none shows it."""
    if name in schema.names:
        return normal_type(schema.field(name).type)
    return pa.string() if name in file.partitions else NULL


def _check_names(schema: pa.Schema, names: Sequence[str], file: DataFile, partitions: Sequence[str]) -> None:
    """Refuses a column that the file and its directories lack, or that occurs twice."""
    for name in names:
        count = schema.names.count(name)
        if count != 1 and not (count == 0 and name in partitions):
            raise _missing(schema, name, file, partitions)


def _missing(schema: pa.Schema, name: str, file: DataFile, partitions: Sequence[str] = ()) -> WrongColumns:
    """The refusal of a file that lacks a column or has it twice."""
    known = ", ".join([*schema.names, *(f"{partition} (directory)" for partition in partitions)])
    missing = "occurs twice" if name in schema.names else "is missing"
    elsewhere = "" if partitions or name not in file.partitions else "; directory names are read for payload only"
    return WrongColumns(f"{file.path}: column {name!r} {missing}{elsewhere}; the file has: {known}")


@dataclass
class _Column:
    """What files tell about the type of a payload column.

    Attributes:
        stored: The type that an index stores it with, widened where a format without types asks for it; ``None`` if no
            index has it.
        listed: The type that files show, the first one first; its open parts are Arrow's ``null``.
        agreed: The type that files show which the stored one can hold, ``None`` without such a file.
        listed_in: The first file that shows a type.
        agreed_in: The first file that shows one which the stored one can hold.
    """

    stored: pa.DataType | None
    listed: pa.DataType = NULL
    agreed: pa.DataType | None = None
    listed_in: str = ""
    agreed_in: str = ""

    def add(self, found: pa.DataType, file: DataFile, widen: Widen | None) -> None:
        """Takes the type that a file shows."""
        shown = "" if pa.types.is_null(found) else file.path
        self.listed = common_type(self.listed, found) or self.listed
        self.listed_in = self.listed_in or shown
        if self.stored is None:
            return
        held = common_type(self.stored, found)
        if held is None and widen is not None and (held := widen(self.stored, found)) is not None:
            found, self.agreed = held, None
        if held is not None:
            self.stored = held
            self.agreed = found if self.agreed is None else common_type(self.agreed, found) or self.agreed
            self.agreed_in = self.agreed_in or shown

    @property
    def is_known(self) -> bool:
        """Whether no other file can tell more."""
        shown = self.listed if self.stored is None else self.agreed
        return shown is not None and not holds_null_type(shown)

    @property
    def result(self) -> tuple[pa.DataType, str]:
        """The type to store the column with, and a file that shows it."""
        listed = self.listed, self.listed_in
        if self.stored is None or self.agreed is None:
            return listed
        # A column without values is stored as text: what agrees by having none does not speak for that type.
        is_open = holds_null_type(self.agreed) and common_type(self.stored, self.listed) is None
        if is_open and common_type(self.agreed, self.listed) is not None:
            return listed
        # Of two spellings of one type the files' is taken: it is part of the names of their digests.
        is_same = normal_type(self.stored) == self.agreed
        return self.agreed if is_same else self.stored, self.agreed_in


class PayloadTypes:
    """Types that the payload is stored with, found from file to file.

    A file that sorts first may be one of many, and a sample of its rows shows less than all of them. So a stored type
    stays where one file agrees with it. Where none does, all files have changed, and the first one's type is taken.
    """

    def __init__(self, settings: CorpusSettings, stored: Iterable[pa.Field]) -> None:
        """Begins.

        Args:
            settings: Which columns hold what.
            stored: Payload columns of the index with their types.
        """
        self._settings = settings
        types = {field.name: field.type for field in stored}
        self._columns = {name: _Column(types.get(name)) for name in settings.payload}
        self._lacking: dict[str, WrongColumns] = {}
        self._had = set(types)
        self.is_empty = True

    def add(self, opened: OpenFile, file: DataFile) -> None:
        """Takes the types of an open file; raises :class:`WrongColumns` as :func:`columns_of` does."""
        widen = format_of(file.path).widen
        for field in columns_of(opened, self._settings, file):
            self._columns[field.name].add(field.type, file, widen)
            if _has(opened.schema, field.name, file):
                self._had.add(field.name)
            elif opened.schema.names and field.name not in self._lacking:
                self._lacking[field.name] = _missing(opened.schema, field.name, file)
        self.is_empty = False

    def check_shown(self) -> None:
        """Raises :class:`WrongColumns` for a column that neither the index nor any file with rows has."""
        for name, error in self._lacking.items():
            if name not in self._had:
                raise error

    @property
    def are_known(self) -> bool:
        """Whether no other file can tell more."""
        return all(column.is_known for column in self._columns.values())

    @property
    def wanted(self) -> WantedTypes:
        """Types to read the next file with, where its format has none."""
        columns = self._columns.items()
        listed = {name: column.listed for name, column in columns if column.stored is None}
        stored = {name: column.stored for name, column in columns if column.stored is not None}
        return wanted_types(self._settings, listed, stored)

    @property
    def payload(self) -> pa.Schema:
        """The payload as far as it is known; a type that no file shows is Arrow's ``null``."""
        return pa.schema([pa.field(name, column.result[0]) for name, column in self._columns.items()])

    @property
    def files(self) -> dict[str, str]:
        """For each column a file that shows its type, empty if none does."""
        return {name: column.result[1] for name, column in self._columns.items()}


def wanted_types(
    settings: CorpusSettings, payload: dict[str, pa.DataType], stored: dict[str, pa.DataType] | None = None
) -> WantedTypes:
    """Types to read the columns of a format without types with: strings for ids and texts, the payload's as known."""
    texts = dict.fromkeys([settings.id_column, *settings.text_columns], pa.string())
    known = {name: type_ for name, type_ in payload.items() if not holds_null_type(type_)}
    return WantedTypes(known | texts, stored or {})
