"""Parquet files to documents: digests, shards, reading."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.corpus.files import DataFile, batches, list_files, open_parquet
from indexer.corpus.rows import content_hash, invalid_rows, payload_hashes, payload_of, plain_type, texts_of, to_plain
from indexer.corpus.shards import FileRows, Shard
from indexer.errors import BadFile, CorpusError, WrongColumns
from indexer.schema import CONTENT_HASH_TYPE
from indexer.settings import CorpusSettings


@dataclass(frozen=True)
class Corpus:
    """A listed corpus.

    Attributes:
        settings: Where it is and which columns hold what.
        files: Its files by path.
        payload: Payload columns with the types they are stored with, read of the first file; others must agree.
    """

    settings: CorpusSettings
    files: tuple[DataFile, ...]
    payload: pa.Schema

    @property
    def digest(self) -> str:
        """Digest of the files' identities and of the columns used: equal digests have equal documents."""
        parts = [self._columns_used, *(file.identity for file in self.files)]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def digest_name(self, file: DataFile) -> str:
        """Name of a file's digest, which holds for the columns used only."""
        return f"{hashlib.blake2b(self._columns_used.encode(), digest_size=8).hexdigest()}-{file.identity}"

    @property
    def _columns_used(self) -> str:
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


def open_corpus(settings: CorpusSettings) -> Corpus:
    """Lists the corpus and reads the payload's types from its first file that can be read.

    Args:
        settings: Location and columns.

    Returns:
        The corpus, files in the order of their paths.

    Raises:
        CorpusError: Nothing there, no file that can be read, or the first one that can lacks a column.
    """
    files = list_files(settings.uri, "corpus.uri")
    refused: CorpusError | None = None
    for file in files:
        try:
            with open_parquet(settings.uri, file) as parquet:
                return Corpus(settings, files, _columns(parquet.schema_arrow, settings, file.path))
        except BadFile as error:
            refused = refused or error
        except WrongColumns as error:
            if settings.strict:
                raise
            refused = error
    raise CorpusError(f"corpus.uri: none of {len(files)} files can be used; {refused}")


def first_texts(corpus: Corpus, file: DataFile, most: int) -> list[str]:
    """Texts of a file's first rows, to try something on.

    Args:
        corpus: The corpus.
        file: One of its files.
        most: Rows to look at.

    Returns:
        The texts that are neither null nor damaged.

    Raises:
        CorpusError: The file cannot be read or lacks a column.
    """
    texts: list[str] = []
    with open_parquet(corpus.settings.uri, file) as parquet:
        check_columns(parquet, corpus, file)
        for _, batch in read_batches(parquet, corpus, file, 0, min(most, parquet.metadata.num_rows)):
            found = texts_of(batch, corpus.settings)
            texts += found.filter(pa.array(~invalid_rows([found], batch.num_rows))).drop_null().to_pylist()
    return texts[:most]


def read_shard(corpus: Corpus, shard: Shard) -> Iterator[DocumentBatch]:
    """Reads the documents of a shard, as :func:`read_part` does those of its parts."""
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
    with open_parquet(corpus.settings.uri, part.file) as parquet:
        for row, batch in read_batches(parquet, corpus, part.file, part.start, part.stop):
            rows = np.arange(max(row, part.start), min(row + batch.num_rows, part.stop))
            rows = rows[chosen[rows - part.start]]
            if rows.size:
                yield _documents(batch.take(pa.array(rows - row)), corpus, part.file, rows)


def _documents(batch: pa.RecordBatch, corpus: Corpus, file: DataFile, rows: np.ndarray) -> DocumentBatch:
    texts = texts_of(batch, corpus.settings)
    payload = payload_of(batch, corpus.payload)
    return DocumentBatch(
        ids=to_plain(batch.column(corpus.settings.id_column)).to_pylist(),
        texts=texts.to_pylist(),
        payload=payload,
        content_hash=pa.array(map(content_hash, texts.cast(pa.binary()).to_pylist()), CONTENT_HASH_TYPE),
        payload_hash=payload_hashes(payload),
        file=file.path,
        rows=rows,
    )


def read_batches(
    parquet: pq.ParquetFile, corpus: Corpus, file: DataFile, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of the columns used, each with the number of its first row."""
    settings = corpus.settings
    names = list(dict.fromkeys([settings.id_column, *settings.text_columns, *settings.payload]))
    return batches(parquet, file, names, start, stop)


def _columns(schema: pa.Schema, settings: CorpusSettings, path: str) -> pa.Schema:
    """Payload columns of a file with their stored types, its other columns checked.

    Raises:
        WrongColumns: A column is missing or has a type that cannot be used.
    """
    for name in (settings.id_column, *settings.text_columns, *settings.payload):
        if schema.get_field_index(name) < 0:
            known = ", ".join(schema.names)
            raise WrongColumns(f"{path}: column {name!r} is missing (or occurs twice); the file has: {known}")
    id_type = plain_type(schema.field(settings.id_column).type)
    if not (pa.types.is_string(id_type) or pa.types.is_integer(id_type)):
        raise WrongColumns(f"{path}: id column {settings.id_column!r} is {id_type}; ids are strings or integers")
    for name in settings.text_columns:
        text_type = plain_type(schema.field(name).type)
        if not pa.types.is_string(text_type):
            raise WrongColumns(f"{path}: text column {name!r} is {text_type}, not a string")
    return pa.schema([pa.field(name, plain_type(schema.field(name).type)) for name in settings.payload])


def check_columns(parquet: pq.ParquetFile, corpus: Corpus, file: DataFile) -> None:
    """Raises :class:`WrongColumns` where a file lacks a column or has it with another type than the corpus."""
    payload = _columns(parquet.schema_arrow, corpus.settings, file.path)
    for ours, theirs in zip(corpus.payload, payload, strict=True):
        if ours.type != theirs.type:
            raise WrongColumns(f"{file.path}: payload column {ours.name!r} is {theirs.type}, elsewhere {ours.type}")
