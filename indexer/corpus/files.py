"""Files of a corpus: where they are, what tells that one changed."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

from indexer.errors import BadFile

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""Directory of the rows whose partition column is null."""

PAUSE_SECONDS = 2.0
"""Between two tries to read a file of an object store."""

ReadT = TypeVar("ReadT")


@dataclass(frozen=True)
class DataFile:
    """A file as listed.

    Attributes:
        path: Path on its filesystem.
        size: Bytes.
        mtime_ns: Modification time, nanoseconds since 1970.
        content: Digest of the bytes, if the corpus is identified by them; otherwise empty.
        etag: An object store's name of the content; empty elsewhere.
    """

    path: str
    size: int
    mtime_ns: int
    content: str = ""
    etag: str = ""

    @property
    def identity(self) -> str:
        """Digest of path, size and etag, modification time or bytes; an unchanged one is not read again."""
        told = f"{self.mtime_ns}"
        if self.content:
            told = f"content {self.content}"
        elif self.etag:
            # Stores tell times in whole seconds, within which an object may be written twice.
            told = f"etag {self.etag}"
        return hashlib.blake2b(f"{self.path}\0{self.size}\0{told}".encode(), digest_size=16).hexdigest()

    def is_same(self, later: "DataFile") -> bool:
        """Whether a later look at the file shows no change; what only one of both looks tells is not compared."""
        told = ((self.content, later.content), (self.etag, later.etag))
        stat = (self.path, self.size, self.mtime_ns) == (later.path, later.size, later.mtime_ns)
        return stat and all(before == now for before, now in told if before and now)

    @property
    def partitions(self) -> dict[str, str | None]:
        """Columns that the directories name, as Hive and Spark write them: ``lang=de/`` gives ``lang`` as ``de``."""
        pairs = (part.partition("=") for part in self.path.split("/")[:-1])
        found = {_unquoted(name): _unquoted(value) for name, sign, value in pairs if sign and name}
        return {name: None if value == NO_PARTITION else value for name, value in found.items()}


def _unquoted(text: str) -> str:
    """A name of a directory without its escapes; as it stands if they do not give UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def retry_once(uri: str, read: Callable[[], ReadT]) -> ReadT:
    """Retries a failed read from an object store once: a lost answer does not make a bad file."""
    try:
        return read()
    except BadFile:
        if "://" not in uri:
            raise
        time.sleep(PAUSE_SECONDS)
        return read()
