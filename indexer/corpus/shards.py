"""Shards: rows of one or several files, the unit of work, retry and resume."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.corpus.files import DataFile

LEAST_BYTES = 256
"""What a document counts for in a shard however short its text is: a worker holds its id, hashes and tokens too."""


@dataclass(frozen=True)
class FileRows:
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
    parts: tuple[FileRows, ...]
    documents: int
    text_bytes: int

    @property
    def size(self) -> int:
        """Number of documents."""
        return self.documents

    def halves(self) -> tuple["Shard", ...]:
        """Two shards with half of the documents each; none of a single document. Their text size is a guess."""
        if self.documents < 2:  # noqa: PLR2004
            return ()
        rows = [(part.file, part.start + np.flatnonzero(part.chosen)) for part in self.parts]
        first: list[FileRows] = []
        second: list[FileRows] = []
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
    parts: list[FileRows] = []
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


def _part(file: DataFile, rows: np.ndarray) -> FileRows:
    start, stop = int(rows[0]), int(rows[-1]) + 1
    mask = np.zeros(stop - start, bool)
    mask[rows - start] = True
    return FileRows(file, start, stop, np.packbits(mask).tobytes())


def _shard(parts: Sequence[FileRows], documents: int, text_bytes: int, salt: str) -> Shard:
    digest = hashlib.blake2b(salt.encode(), digest_size=16)
    for part in parts:
        digest.update(f"\0{part.file.identity}\0{part.start}\0{part.stop}\0".encode() + part.mask)
    return Shard(digest.hexdigest(), tuple(parts), documents, text_bytes)
