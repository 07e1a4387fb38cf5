"""Files to documents: columns, reading."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from indexer.corpus.columns import PayloadTypes, columns_of, wanted_types
from indexer.corpus.files import DataFile
from indexer.corpus.formats import open_file
from indexer.corpus.listing import list_files, with_contents
from indexer.corpus.open_file import OpenFile, RowBatch
from indexer.corpus.rows import Rows, content_hash, ids_of, payload_hashes, payload_of, texts_of
from indexer.corpus.shards import FileRows, Shard
from indexer.corpus.types import common_type
from indexer.corpus.values import Fault
from indexer.errors import BadFile, CorpusError, WrongColumns
from indexer.schema import CONTENT_HASH_TYPE
from indexer.settings import CorpusSettings

DIGEST_VERSION = 3
"""Raised when the same file would give other values, hashes or reasons.

Not for faults that :func:`indexer.corpus.parsed.to_column` finds beside a value: an index goes on with what it stored.
"""


@dataclass(frozen=True)
class Corpus:
    """A listed corpus.

    Attributes:
        settings: Where it is and which columns hold what.
        files: Its files by path.
        payload: Payload columns with their stored types, those of the index or of the first file; every other file must
            agree.
        skip_empty: Whether an empty text column adds nothing to a document's text. Older indices keep the newline that
            it added then: otherwise all such documents would be embedded again.
        type_files: For each payload column a file that shows its type, for errors.
    """

    settings: CorpusSettings
    files: tuple[DataFile, ...]
    payload: pa.Schema
    skip_empty: bool = True
    type_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def without_files(self) -> "Corpus":
        """The same to read named files of it: a list of all files is megabytes for each worker."""
        return replace(self, files=())

    @property
    def digest(self) -> str:
        """Digest of the files' identities and of the columns used: equal digests mean equal documents."""
        parts = [self._columns_used, *(file.identity for file in self.files)]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def digest_name(self, file: DataFile) -> str:
        """Name of a file's digest; it covers the file, the columns used and how they are read."""
        types = [f"{field.name} {field.type}" for field in self.payload]
        read = "\n".join([f"{DIGEST_VERSION}", self._columns_used, f"{self.skip_empty}", *types])
        return f"{hashlib.blake2b(read.encode(), digest_size=8).hexdigest()}-{file.identity}"

    def open(self, file: DataFile) -> AbstractContextManager[OpenFile]:
        """Opens one of the files; its values are read with the corpus's types, see :func:`open_file`."""
        types = dict(zip(self.payload.names, self.payload.types, strict=True))
        return open_file(self.settings.uri, file, wanted_types(self.settings, types))

    @property
    def _columns_used(self) -> str:
        """The settings that choose columns, as JSON."""
        return self.settings.model_dump_json(include={"id_column", "text_columns", "payload"})


@dataclass(frozen=True)
class DocumentBatch:
    """Some rows of one file, ready to be embedded.

    Attributes:
        ids: Document ids.
        texts: Text columns joined with a newline.
        payload: Payload columns.
        content_hash: fixed binary of 16 bytes, blake2b of each text.
        payload_hash: fixed binary of 8 bytes, blake2b of each row of the payload.
        file: Path of the file.
        rows: int64, row numbers in the file.
    """

    ids: list[str]
    texts: list[str]
    payload: pa.Table
    content_hash: pa.Array
    payload_hash: pa.Array
    file: str
    rows: np.ndarray


def open_corpus(settings: CorpusSettings, stored: Iterable[pa.Field] = ()) -> Corpus:
    """Lists the corpus and reads the payload's types from its first file that can be read.

    A column of nulls leaves its type open; the next files are read for it. They are read, too, for a file that agrees
    with the stored types where the first one does not.

    Args:
        settings: Location and columns.
        stored: Payload columns of the published tables.

    Returns:
        The corpus, files in the order of their paths. Types that no file tells are Arrow's ``null``.

    Raises:
        CorpusError: There is no file, none can be read, the first readable one lacks a column, or none has a column
            that files may lack.
    """
    return read_types(settings, list_corpus(settings), stored)


def read_types(settings: CorpusSettings, files: tuple[DataFile, ...], stored: Iterable[pa.Field] = ()) -> Corpus:
    """The corpus of listed files, see :func:`open_corpus`."""
    refused: CorpusError | None = None
    types = PayloadTypes(settings, stored)
    for file in files:
        try:
            with open_file(settings.uri, file, types.wanted) as opened:
                types.add(opened, file)
        except BadFile as error:
            refused = refused or error
        except WrongColumns as error:
            if settings.strict:
                raise
            refused = error
        else:
            if types.are_known:
                break
    if types.is_empty:
        raise CorpusError(f"corpus.uri: none of {len(files)} files can be used; {refused}")
    types.check_shown()
    return Corpus(settings, files, types.payload, type_files=types.files)


def list_corpus(settings: CorpusSettings) -> tuple[DataFile, ...]:
    """The corpus's files, with digests of their bytes if these identify them."""
    files = list_files(settings.uri, "corpus.uri")
    return with_contents(settings.uri, files) if settings.identity == "content" else files


def first_texts(corpus: Corpus, file: DataFile, most: int) -> list[str]:
    """Texts of a file's first rows, to try something on.

    Args:
        corpus: The corpus.
        file: One of its files.
        most: Rows to read.

    Returns:
        The texts that are neither null nor damaged.

    Raises:
        CorpusError: The file cannot be read or lacks a column.
    """
    texts: list[str] = []
    with corpus.open(file) as opened:
        check_columns(opened, corpus, file)
        for batch in read_batches(opened, corpus, file):
            found = rows_of(batch, corpus)
            texts += found.texts.filter(pa.array(found.text_faults == Fault.NONE)).drop_null().to_pylist()
            if batch.first + batch.columns.num_rows >= most:
                break
    return texts[:most]


def read_shard(corpus: Corpus, shard: Shard) -> Iterator[DocumentBatch]:
    """Reads the documents of a shard, part by part as :func:`read_part`."""
    for part in shard.parts:
        yield from read_part(corpus, part)


def read_part(corpus: Corpus, part: FileRows) -> Iterator[DocumentBatch]:
    """Reads the documents of one file's part of a shard.

    Args:
        corpus: The corpus.
        part: Rows to read; they have passed :func:`scan_file`, so that every id and text is usable.

    Yields:
        Documents in file order, at most 1,024 at a time.

    Raises:
        BadFile: The file changed since it was listed, or cannot be read.
    """
    chosen = part.chosen
    with corpus.open(part.file) as opened:
        for batch in read_batches(opened, corpus, part.file, part.start, part.stop):
            rows = np.arange(batch.first, min(batch.first + batch.columns.num_rows, part.stop))
            rows = rows[chosen[rows - part.start]]
            if rows.size:
                yield _documents(rows_of(batch, corpus).take(rows - batch.first), part.file, rows)


def _documents(rows: Rows, file: DataFile, numbers: np.ndarray) -> DocumentBatch:
    """A batch of documents from rows that are all usable."""
    return DocumentBatch(
        ids=rows.ids.to_pylist(),
        texts=rows.texts.to_pylist(),
        payload=rows.payload,
        content_hash=pa.array(map(content_hash, rows.texts.cast(pa.binary()).to_pylist()), CONTENT_HASH_TYPE),
        payload_hash=payload_hashes(rows.payload),
        file=file.path,
        rows=numbers,
    )


def rows_of(batch: RowBatch, corpus: Corpus) -> Rows:
    """Ids, texts and payload of a batch of :func:`read_batches` as they are stored."""
    settings = corpus.settings
    count = batch.columns.num_rows
    columns = dict(zip(batch.columns.schema.names, batch.columns.columns, strict=True))
    ids, id_faults = ids_of(columns[settings.id_column])
    texts = {name: columns[name] for name in settings.text_columns}
    joined, text_faults = texts_of(texts, skip_empty=corpus.skip_empty)
    payload, payload_faults = payload_of(columns, corpus.payload, count)
    row_faults = np.zeros(count, np.uint8) if batch.faults is None else batch.faults
    return Rows(ids, joined, payload, id_faults, text_faults, payload_faults, row_faults)


def read_batches(
    opened: OpenFile, corpus: Corpus, file: DataFile, start: int = 0, stop: int | None = None
) -> Iterator[RowBatch]:
    """Batches of the columns used.

    Columns that the file lacks and its directories name (``lang=de/``) are added.
    """
    settings = corpus.settings
    names = list(dict.fromkeys([settings.id_column, *settings.text_columns, *settings.payload]))
    outside = {
        name: file.partitions[name]
        for name in settings.payload
        if name in file.partitions and name not in opened.schema.names
    }
    inside = [name for name in names if name not in outside]
    for batch in opened.batches(inside, start, stop):
        yield replace(batch, columns=_with_constants(batch.columns, outside))


def _with_constants(batch: pa.RecordBatch, values: Mapping[str, str | None]) -> pa.RecordBatch:
    """Adds columns that hold one value in every row."""
    columns = [pa.array([value] * batch.num_rows, pa.string()) for value in values.values()]
    return pa.record_batch([*batch.columns, *columns], [*batch.schema.names, *values])


def check_columns(opened: OpenFile, corpus: Corpus, file: DataFile) -> None:
    """Raises :class:`WrongColumns` if a file lacks a column or has it with another type than the corpus."""
    payload = columns_of(opened, corpus.settings, file)
    for ours in corpus.payload:
        theirs = payload.field(ours.name).type
        if common_type(ours.type, theirs) is None:
            where = corpus.type_files.get(ours.name)
            told = f", as in {where}" if where else ""
            raise WrongColumns(f"{file.path}: payload column {ours.name!r} is {theirs}, elsewhere {ours.type}{told}")
