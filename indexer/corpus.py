"""Parquet files to documents: digests, shards, reading."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexer.errors import BadFile, CorpusError, WrongColumns
from indexer.fates import Fate
from indexer.files import DataFile, batches, list_files, opened
from indexer.schema import CONTENT_HASH_TYPE, DIGEST_SCHEMA, PAYLOAD_HASH_TYPE
from indexer.settings import CorpusSettings

TEXT_SEPARATOR = "\n"

LEAST_BYTES = 256
"""What a document counts for in a shard however short its text is: a worker holds its id, hashes and tokens too."""

STRING = pa.string()


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
class Part:
    """Rows ``start`` to ``stop`` of one file.

    Attributes:
        file: The file.
        start: First row.
        stop: Row after the last.
        mask: Packed bits (``numpy.packbits``): which of the rows belong to the shard.
    """

    file: DataFile
    start: int
    stop: int
    mask: bytes

    @property
    def chosen(self) -> np.ndarray:
        """bool, shape (stop - start,)."""
        return np.unpackbits(np.frombuffer(self.mask, np.uint8), count=self.stop - self.start).astype(bool)


@dataclass(frozen=True)
class Shard:
    """The unit of work, retry and resume.

    Attributes:
        shard_id: Digest of what the shard holds and of what makes its vectors.
        parts: Its rows.
        documents: Number of rows.
        text_bytes: UTF-8 bytes of their texts.
    """

    shard_id: str
    parts: tuple[Part, ...]
    documents: int
    text_bytes: int

    def halves(self) -> tuple["Shard", ...]:
        """Two shards with half of the documents each; none of a single document. Their text size is a guess."""
        if self.documents < 2:  # noqa: PLR2004
            return ()
        rows = [(part.file, part.start + np.flatnonzero(part.chosen)) for part in self.parts]
        first: list[Part] = []
        second: list[Part] = []
        room = self.documents // 2
        for file, numbers in rows:
            first += [_part(file, numbers[:room])] if room else []
            second += [_part(file, numbers[room:])] if len(numbers) > room else []
            room = max(0, room - len(numbers))
        left = self.documents // 2
        return (
            _shard(first, left, self.text_bytes // 2, self.shard_id),
            _shard(second, self.documents - left, self.text_bytes // 2, self.shard_id),
        )


@dataclass(frozen=True)
class Documents:
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
            with opened(settings.uri, file) as parquet:
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
    with opened(corpus.settings.uri, file) as parquet:
        _check_columns(parquet, corpus, file)
        for _, batch in _read(parquet, corpus, file, 0, min(most, parquet.metadata.num_rows)):
            found = _texts(batch, corpus.settings)
            texts += found.filter(pa.array(~_invalid_rows([found], batch.num_rows))).drop_null().to_pylist()
    return texts[:most]


def scan_file(corpus: Corpus, file: DataFile) -> pa.Table:
    """Reads one file into its digest.

    Args:
        corpus: The corpus.
        file: One of its files.

    Returns:
        Table of :data:`indexer.schema.DIGEST_SCHEMA`, a row per row of the file, sorted by id.

    Raises:
        BadFile: The file is not Parquet, is damaged or has changed.
        WrongColumns: It lacks a column or has one with another type.
    """
    with opened(corpus.settings.uri, file) as parquet:
        _check_columns(parquet, corpus, file)
        digests = [_digest(rows, corpus) for rows in _read(parquet, corpus, file)]
    return pa.Table.from_batches(digests, DIGEST_SCHEMA).sort_by("id")


def cut_shards(
    chosen: Iterable[tuple[DataFile, np.ndarray, np.ndarray]], shard_bytes: int, salt: str
) -> Iterator[Shard]:
    """Cuts the rows to embed into shards of about equal text size; small files share one, large ones are split.

    Args:
        chosen: For each file its rows to embed, int64 ascending, and the UTF-8 bytes of their texts, int64.
        shard_bytes: Text bytes per shard.
        salt: What else makes a shard's result: fingerprint, tables, epoch.

    Yields:
        Shards, as the files are pulled.
    """
    parts: list[Part] = []
    documents = text_bytes = filled = 0
    for file, rows, sizes in chosen:
        ends = np.cumsum(np.maximum(sizes, LEAST_BYTES))
        start = before = 0
        while start < len(rows):
            full = int(np.searchsorted(ends, before + shard_bytes - filled))
            stop = min(len(rows), full + 1)
            parts.append(_part(file, rows[start:stop]))
            documents += stop - start
            text_bytes += int(sizes[start:stop].sum())
            filled += int(ends[stop - 1]) - before
            start, before = stop, int(ends[stop - 1])
            if filled >= shard_bytes:
                yield _shard(parts, documents, text_bytes, salt)
                parts, documents, text_bytes, filled = [], 0, 0, 0
    if parts:
        yield _shard(parts, documents, text_bytes, salt)


def read_shard(corpus: Corpus, shard: Shard) -> Iterator[Documents]:
    """Reads the documents of a shard, as :func:`read_part` does those of its parts."""
    for part in shard.parts:
        yield from read_part(corpus, part)


def read_part(corpus: Corpus, part: Part) -> Iterator[Documents]:
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
    with opened(corpus.settings.uri, part.file) as parquet:
        for row, batch in _read(parquet, corpus, part.file, part.start, part.stop):
            rows = np.arange(max(row, part.start), min(row + batch.num_rows, part.stop))
            rows = rows[chosen[rows - part.start]]
            if rows.size:
                yield _documents(batch.take(pa.array(rows - row)), corpus, part.file, rows)


def _documents(batch: pa.RecordBatch, corpus: Corpus, file: DataFile, rows: np.ndarray) -> Documents:
    texts = _texts(batch, corpus.settings)
    payload = _payload(batch, corpus.payload)
    return Documents(
        ids=_plain(batch.column(corpus.settings.id_column)).to_pylist(),
        texts=texts.to_pylist(),
        payload=payload,
        content_hash=pa.array(map(_content_hash, texts.cast(pa.binary()).to_pylist()), CONTENT_HASH_TYPE),
        payload_hash=_payload_hashes(payload),
        file=file.path,
        rows=rows,
    )


def _digest(rows: tuple[int, pa.RecordBatch], corpus: Corpus) -> pa.RecordBatch:
    first, batch = rows
    ids, texts = _plain(batch.column(corpus.settings.id_column)), _texts(batch, corpus.settings)
    payload = _payload(batch, corpus.payload)
    invalid = _invalid_rows([ids, texts, *payload.columns], batch.num_rows)
    raw = pc.if_else(pa.array(invalid), pa.scalar(None, pa.binary()), texts.cast(pa.binary())).to_pylist()
    reasons = [_reason(*row) for row in zip(invalid, ids.is_valid().to_pylist(), raw, strict=True)]
    return pa.record_batch(
        [
            pa.array(np.arange(first, first + batch.num_rows)),
            pc.if_else(pa.array(invalid), pa.scalar(None, pa.string()), ids),
            pa.array([_content_hash(text or b"") for text in raw], CONTENT_HASH_TYPE),
            _payload_hashes(payload, ~invalid),
            pa.array([len(text or b"") for text in raw], pa.int64()),
            pa.array(reasons, pa.string()),
        ],
        schema=DIGEST_SCHEMA,
    )


def _reason(invalid: bool, has_id: bool, text: bytes | None) -> Fate | None:  # noqa: FBT001
    if invalid:
        return Fate.INVALID_UTF8
    if not has_id:
        return Fate.NULL_ID
    if text is None:
        return Fate.NULL_TEXT
    # Looking at the first characters decides nearly always, without decoding all of a large text.
    return None if text[:64].decode(errors="ignore").strip() or text.decode().strip() else Fate.EMPTY_TEXT


def _content_hash(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def _payload_hashes(payload: pa.Table, readable: np.ndarray | None = None) -> pa.Array:
    """Hash of each row's payload; zeros for a row that cannot be decoded."""
    if readable is not None and not readable.all():
        hashes = iter(_payload_hashes(payload.filter(pa.array(readable))).to_pylist())
        nothing = bytes(PAYLOAD_HASH_TYPE.byte_width)
        return pa.array([next(hashes) if usable else nothing for usable in readable], PAYLOAD_HASH_TYPE)
    values = [_hashable(column) for column in payload.columns]
    rows = zip(*values, strict=True) if values else ((),) * payload.num_rows
    return pa.array((hashlib.blake2b(repr(row).encode(), digest_size=8).digest() for row in rows), PAYLOAD_HASH_TYPE)


def _hashable(column: pa.ChunkedArray) -> list[object]:
    """Values whose ``repr`` tells them apart; text where Arrow can write it, which is faster and version-stable.

    Bytes stay bytes: whether they happen to be text would depend on the rows that are read together.
    """
    if pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
        return list(column.to_pylist())
    try:
        return list(column.cast(pa.string()).to_pylist())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return list(column.to_pylist())


def _texts(batch: pa.RecordBatch, settings: CorpusSettings) -> pa.Array:
    """Text of every row, null where every text column is null."""
    columns = [_plain(batch.column(name)) for name in settings.text_columns]
    if len(columns) == 1:
        return columns[0]
    joined = pc.binary_join_element_wise(*columns, TEXT_SEPARATOR, null_handling="skip")
    any_valid = np.logical_or.reduce([column.is_valid().to_numpy(zero_copy_only=False) for column in columns])
    return pc.if_else(pa.array(any_valid), joined, None)


def _payload(batch: pa.RecordBatch, payload: pa.Schema) -> pa.Table:
    if not payload.names:
        return pa.Table.from_batches([batch]).select([])
    return pa.table([_plain(batch.column(field.name), field.type) for field in payload], schema=payload)


def _plain(column: pa.Array, type_: pa.DataType = STRING) -> pa.Array:
    """The column with the type it is stored with: dictionaries decoded, large and view types made ordinary."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column if column.type == type_ else column.cast(type_)


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if isinstance(type_, pa.BaseExtensionType):
        return _plain_type(type_.storage_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    return type_


def _invalid_rows(columns: Sequence[pa.Array | pa.ChunkedArray], rows: int) -> np.ndarray:
    """Rows in which a text is not UTF-8. Parquet readers do not check, and one such value poisons a whole batch."""
    invalid = np.zeros(rows, bool)
    for column in columns:
        if not pa.types.is_string(column.type):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            invalid |= np.array([not _is_utf8(value) for value in column.cast(pa.binary()).to_pylist()])
    return invalid


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _part(file: DataFile, rows: np.ndarray) -> Part:
    start, stop = int(rows[0]), int(rows[-1]) + 1
    mask = np.zeros(stop - start, bool)
    mask[rows - start] = True
    return Part(file, start, stop, np.packbits(mask).tobytes())


def _shard(parts: Sequence[Part], documents: int, text_bytes: int, salt: str) -> Shard:
    digest = hashlib.blake2b(salt.encode(), digest_size=16)
    for part in parts:
        digest.update(f"\0{part.file.identity}\0{part.start}\0{part.stop}\0".encode() + part.mask)
    return Shard(digest.hexdigest(), tuple(parts), documents, text_bytes)


def _read(
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
    id_type = _plain_type(schema.field(settings.id_column).type)
    if not (pa.types.is_string(id_type) or pa.types.is_integer(id_type)):
        raise WrongColumns(f"{path}: id column {settings.id_column!r} is {id_type}; ids are strings or integers")
    for name in settings.text_columns:
        text_type = _plain_type(schema.field(name).type)
        if not pa.types.is_string(text_type):
            raise WrongColumns(f"{path}: text column {name!r} is {text_type}, not a string")
    return pa.schema([pa.field(name, _plain_type(schema.field(name).type)) for name in settings.payload])


def _check_columns(parquet: pq.ParquetFile, corpus: Corpus, file: DataFile) -> None:
    payload = _columns(parquet.schema_arrow, corpus.settings, file.path)
    for ours, theirs in zip(corpus.payload, payload, strict=True):
        if ours.type != theirs.type:
            raise WrongColumns(f"{file.path}: payload column {ours.name!r} is {theirs.type}, elsewhere {ours.type}")
