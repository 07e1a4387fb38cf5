"""Files of object stores: S3, Google Cloud Storage and Azure, through the same library as the index's."""

import io
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import pyarrow as pa

from indexer.corpus.files import DataFile
from indexer.errors import CorpusError
from indexer.storage.remote import Remote, RemoteError, StoredObject, reason_of

SECOND = 10**9
"""Nanoseconds. Listings of some stores have parts of a second, answers about one object have none."""

QUERY_KEYS = frozenset({"region", "endpoint_override", "scheme"})
"""Keys of an S3 URI's query that stand for variables of the environment."""


class StorePlace:
    """Objects of one bucket or container; paths begin with its name."""

    def __init__(self, remote: Remote, root: str, bucket: str) -> None:
        """Takes the store, the bucket's URI and its name."""
        self._remote = remote
        self._root = root
        self._bucket = bucket

    def find(self, path: str) -> DataFile | None:
        """The object of a path, ``None`` if there is none."""
        key = self._key(path)
        try:
            found = self._remote.find(key) if key else None
        except RemoteError as error:
            raise OSError(reason_of(error)) from None
        return None if found is None else _file(path, found)

    def below(self, root: str) -> Iterable[DataFile]:
        """Every object whose path begins so."""
        try:
            found = list(self._remote.objects(self._key(root)))
        except RemoteError as error:
            raise OSError(reason_of(error)) from None
        return [_file(f"{self._bucket}/{one.path}", one) for one in found]

    def open(self, path: str) -> pa.NativeFile:
        """An object that is read by ranges."""
        found = self.find(path)
        if found is None:
            raise FileNotFoundError("there is no such object")
        return pa.PythonFile(_Object(self._remote, self._key(path), found.size), mode="r")

    def uri(self, path: str) -> str:
        """What another library opens a path by."""
        return f"{self._root}/{quote(self._key(path))}"

    def _key(self, path: str) -> str:
        """Path in the bucket."""
        return path.removeprefix(self._bucket).strip("/")


class _Object(io.RawIOBase):
    """An object as a file; each read is one request."""

    def __init__(self, remote: Remote, key: str, size: int) -> None:
        self._remote = remote
        self._key = key
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._at))
        try:
            content = self._remote.read(self._key, self._at, length) if length else b""
        except RemoteError as error:
            raise OSError(reason_of(error)) from None
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def open_store(uri: str) -> tuple[StorePlace, str]:
    """Place of an object store's URI and the path there, which begins with the bucket.

    Raises:
        CorpusError: The URI's query has a key that is not read.
        RemoteError: The store cannot be opened.
    """
    scheme, _, rest = uri.partition("://")
    path, mark, query = rest.rpartition("?")
    if not mark or "=" not in query:
        path, query = rest, ""  # the rest of a glob: s3://bucket/part-?.parquet
    bucket, _, key = unquote(path).partition("/")
    # abfss://container@account.dfs.core.windows.net: the account is part of the place, not of paths.
    name = bucket.partition("@")[0]
    root = f"{scheme}://{bucket}"
    return StorePlace(_remote(root, query), root, name), f"{name}/{key}".rstrip("/")


@lru_cache(16)
def _remote(root: str, query: str) -> Remote:
    """The store of a bucket; it keeps its connections."""
    given = dict(parse_qsl(query))
    if unread := sorted(given.keys() - QUERY_KEYS):
        raise CorpusError(
            f"its query has {unread[0]!r}, which is not read; set the store's variables in the environment"
        )
    options: dict[str, Any] = {"region": given["region"]} if "region" in given else {}
    if host := given.get("endpoint_override"):
        scheme = given.get("scheme", "https")
        options |= {"endpoint": f"{scheme}://{host}", "client_options": {"allow_http": scheme == "http"}}
    return Remote(root, **options)


def _file(path: str, found: StoredObject) -> DataFile:
    """An object as a file of the corpus."""
    return DataFile(path, found.size, int(found.time) * SECOND, etag=found.etag)
