"""Files below a URI of an object store, through obstore."""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from indexer.errors import IndexerError, first_line

RemoteError = BaseError

SCHEMES = frozenset({"s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss"})
"""Schemes of object stores that obstore has: S3, Google Cloud Storage, Azure."""

_probed: set[str] = set()

QUERY = re.compile(r"\?\S+")
"""Query of a URL. On Azure a shared access signature stands there."""


def reason_of(error: BaseException) -> str:
    """The first line of an error, with a hint if obstore refuses plain http, which it calls a "builder error"."""
    is_http = "HTTP error: builder error" in str(error)
    hint = "; a server on plain http needs AWS_ALLOW_HTTP=true, or the variable of its store" if is_http else ""
    return QUERY.sub("", first_line(error)) + hint


class StoredObject(NamedTuple):
    """An object as the store tells of it.

    Attributes:
        path: Path below the store's URI.
        size: Bytes.
        time: Time of change, seconds since 1970.
        etag: The store's name of its content, without quotes; empty if it gives none.
    """

    path: str
    size: int
    time: float
    etag: str


class Remote:
    """Objects below a URI; errors are :class:`RemoteError` or :class:`OSError`."""

    def __init__(self, uri: str, **options: Any) -> None:
        """Opens the store without a request to it. obstore itself repeats failed requests with backoff.

        Args:
            uri: Where the objects are.
            options: Options of obstore in place of variables of the environment.
        """
        self._uri = uri
        self._store: ObjectStore = from_url(uri, **options)

    def put(self, path: str, content: bytes | Path) -> bool:
        """Writes an object if there is none of the name; returns whether it wrote.

        Raises:
            IndexerError: The store ignores If-None-Match and overwrites objects.
        """
        if self._uri not in _probed:
            self._probe()
            _probed.add(self._uri)
        return self._create(path, content)

    def _create(self, path: str, content: bytes | Path) -> bool:
        """Writes an object if there is none of the name, in one conditional request."""
        try:
            obstore.put(self._store, path, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def _probe(self) -> None:
        """Refuses a store that ignores If-None-Match: two runs would silently overwrite each other's files."""
        path = f"_probe-{uuid4().hex}"
        try:
            self._create(path, b"1")
            if self._create(path, b"2"):
                raise IndexerError(
                    "the object store ignores If-None-Match: it overwrites files that must be put once, so that two "
                    "runs would mix their work; use a store that knows conditional writes, or a directory"
                )
        finally:
            obstore.delete(self._store, path)

    def get(self, path: str) -> bytes:
        """Content of an object."""
        return bytes(obstore.get(self._store, path).bytes())

    def open(self, path: str) -> BinaryIO:
        """An object that is read piece by piece."""
        return cast(BinaryIO, _RandomAccess(obstore.open_reader(self._store, path)))

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return int(obstore.head(self._store, path)["size"])

    def find(self, path: str) -> StoredObject | None:
        """An object, ``None`` if there is none."""
        try:
            return _stored(obstore.head(self._store, path))
        except FileNotFoundError:
            return None

    def read(self, path: str, start: int, length: int) -> bytes:
        """A range of an object's bytes, in one request."""
        return bytes(obstore.get_range(self._store, path, start=start, length=length))

    def delete(self, path: str) -> None:
        """Deletes an object."""
        obstore.delete(self._store, path)

    def refresh(self, path: str) -> None:
        """Makes an object as young as one written now, by writing it again: stores refuse a copy onto itself."""
        obstore.put(self._store, path, self.get(path))

    def files(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """Path, bytes and time of change, in seconds since 1970, of every object below a folder."""
        return ((found.path, found.size, found.time) for found in self.objects(folder))

    def objects(self, folder: str) -> Iterator[StoredObject]:
        """Every object below a folder."""
        return (_stored(entry) for batch in obstore.list(self._store, folder) for entry in batch)

    def folders(self) -> list[str]:
        """Names of the folders right below."""
        return [str(prefix).split("/")[-1] for prefix in obstore.list_with_delimiter(self._store)["common_prefixes"]]


def _stored(entry: Mapping[str, Any]) -> StoredObject:
    """What obstore tells of an object."""
    # Answers about one object quote the etag and may mark it as weak; Azure's listings do neither.
    etag = (entry["e_tag"] or "").removeprefix("W/").strip('"')
    return StoredObject(entry["path"], int(entry["size"]), entry["last_modified"].timestamp(), etag)


class _RandomAccess(io.RawIOBase):
    """A stored file with the file protocol that Arrow needs; obstore's own reader lacks part of it."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        content = bytes(self._reader.read(len(buffer)))
        buffer[: len(content)] = content
        return len(content)
