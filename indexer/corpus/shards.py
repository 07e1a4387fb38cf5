"""Shards: rows of one or several files, the unit of work, retry and resume."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from indexer.corpus.files import DataFile

LEAST_BYTES = 256
"""Least bytes that a document counts for in a shard: a worker also holds its id, hashes and tokens."""


PAYLOAD_BYTES = 64 << 20
"""Cap on a shard's payload: a worker's memory grows by about twice as much for every shard in hand.

Measured on 256 documents with 9 MiB of payload each, 2,304 MiB in all, in 32 shards on one CPU worker: the largest
process of Ray held 1,724 MiB at most (resident memory, sampled every 0.3 s), engine included.
"""


@dataclass(frozen=True)
class ChosenRows:
    """Rows of one file to cut into shards.

    Attributes:
        file: The file.
        rows: Their numbers, int64, ascending.
        text_bytes: UTF-8 bytes of their texts, int64, shape (rows,).
        payload_bytes: Approximate bytes of their payloads, int64, shape (rows,).
        identity: Columns of the file's digest that say what the rows hold: id and hashes.
    """

    file: DataFile
    rows: np.ndarray
    text_bytes: np.ndarray
    payload_bytes: np.ndarray
    identity: pa.Table

    def part(self, start: int, stop: int) -> "FileRows":
        """Some of the rows, by their places."""
        content = hashlib.blake2b(digest_size=16)
        for column in self.identity.slice(start, stop - start).columns:
            content.update(json.dumps([str(value) for value in column.to_pylist()]).encode())
        return _part(self.file, self.rows[start:stop], content.digest())


@dataclass(frozen=True)
class FileRows:
    """Rows ``start`` to ``stop`` of one file.

    Attributes:
        file: The file.
        start: First row.
        stop: Row after the last.
        mask: Packed bits (``numpy.packbits``): which of the rows belong to the shard.
        content: Digest of the ids and hashes of these rows.
    """

    file: DataFile
    start: int
    stop: int
    mask: bytes
    content: bytes

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
    parts: tuple[FileRows, ...]
    documents: int
    text_bytes: int

    @property
    def size(self) -> int:
        """Number of documents."""
        return self.documents

    def halves(self) -> tuple["Shard", ...]:
        """Two shards with half of the documents each, their text size estimated; empty for a single document."""
        if self.documents < 2:  # noqa: PLR2004
            return ()
        rows = [(part.file, part.start + np.flatnonzero(part.chosen)) for part in self.parts]
        first: list[FileRows] = []
        second: list[FileRows] = []
        needed = self.documents // 2
        for file, numbers in rows:
            first += [_part(file, numbers[:needed], b"")] if needed else []
            second += [_part(file, numbers[needed:], b"")] if len(numbers) > needed else []
            needed = max(0, needed - len(numbers))
        left = self.documents // 2
        return (
            _shard(first, left, self.text_bytes // 2, self.shard_id),
            _shard(second, self.documents - left, self.text_bytes // 2, self.shard_id),
        )


def cut_shards(chosen: Iterable[ChosenRows], shard_bytes: int, salt: str) -> Iterator[Shard]:
    """Cuts the rows to embed into shards of about equal text size; small files share one, large ones are split.

    A shard ends earlier once its payload reaches :data:`PAYLOAD_BYTES`.

    Args:
        chosen: Rows to embed, file by file.
        shard_bytes: Text bytes per shard.
        salt: What else makes a shard's result: fingerprint, tables, epoch.

    Yields:
        Shards, as the files are pulled.
    """
    parts: list[FileRows] = []
    documents = text_bytes = filled = loaded = 0
    for file in chosen:
        ends = np.concatenate([[0], np.cumsum(np.maximum(file.text_bytes, LEAST_BYTES))])
        loads = np.concatenate([[0], np.cumsum(file.payload_bytes)])
        start = 0
        while start < len(file.rows):
            full = np.searchsorted(ends[1:], ends[start] + shard_bytes - filled)
            heavy = np.searchsorted(loads[1:], loads[start] + PAYLOAD_BYTES - loaded)
            stop = min(len(file.rows), int(min(full, heavy)) + 1)
            parts.append(file.part(start, stop))
            documents += stop - start
            text_bytes += int(file.text_bytes[start:stop].sum())
            filled += int(ends[stop] - ends[start])
            loaded += int(loads[stop] - loads[start])
            start = stop
            if filled >= shard_bytes or loaded >= PAYLOAD_BYTES:
                yield _shard(parts, documents, text_bytes, salt)
                parts, documents, text_bytes, filled, loaded = [], 0, 0, 0, 0
    if parts:
        yield _shard(parts, documents, text_bytes, salt)


def _part(file: DataFile, rows: np.ndarray, content: bytes) -> FileRows:
    """Rows of one file as a part of a shard."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    mask = np.zeros(stop - start, bool)
    mask[rows - start] = True
    return FileRows(file, start, stop, np.packbits(mask).tobytes(), content)


def _shard(parts: Sequence[FileRows], documents: int, text_bytes: int, salt: str) -> Shard:
    """A shard, named after the content and the places of its rows, since a receipt has both."""
    digest = hashlib.blake2b(salt.encode(), digest_size=16)
    for part in parts:
        digest.update(f"\0{part.file.path}\0{part.start}\0{part.stop}\0".encode() + part.mask + part.content)
    return Shard(digest.hexdigest(), tuple(parts), documents, text_bytes)
