"""Small files at a URI, each put once and never changed: the only door to obstore.

Writing a name that exists changes nothing and returns false, on local disks and on object stores. So several processes
may do the same work and agree on the first result.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from pydantic import BaseModel, ConfigDict

from indexer.errors import IndexerError, first_line
from indexer.uris import shown


class Record(BaseModel):
    """Content of a control file, written as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self, indent: int | None = None) -> str:
        """The record as its file has it: optional keys only where they were given."""
        return self.model_dump_json(exclude_unset=True, indent=indent)


GROUP_ROWS = 1 << 14
"""Rows per row group of a table: a range of a sorted one touches few of them."""


class PutOnceFolder:
    """Files of one folder."""

    def __init__(self, uri: str, folder: str, setting: str) -> None:
        """Opens the folder.

        Args:
            uri: Directory, made when missing, or object-store URI.
            folder: Folder in it, made with the first file; empty for the URI itself.
            setting: Name of the setting that gave the URI, for errors.

        Raises:
            IndexerError: The location cannot be opened.
        """
        self._store = _open(uri, setting)
        self._folder = folder

    def put(self, name: str, content: bytes | Path) -> bool:
        """Puts a file if there is none.

        Args:
            name: Path below the folder.
            content: The content, or a local file that holds it.

        Returns:
            Whether it was put; ``False`` where the name existed.

        Raises:
            IndexerError: It cannot be written.
        """
        try:
            obstore.put(self._store, self._path(name), content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise IndexerError(f"cannot write {name}: {first_line(error)}") from None
        return True

    def put_table(self, name: str, table: pa.Table) -> bool:
        """Puts a table as Parquet, like :meth:`put`."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=GROUP_ROWS)
        return self.put(name, buffer.getvalue())

    def get(self, name: str) -> bytes:
        """Content of a file.

        Raises:
            IndexerError: It is missing or cannot be read.
        """
        try:
            return bytes(obstore.get(self._store, self._path(name)).bytes())
        except (BaseError, OSError) as error:
            raise IndexerError(f"cannot read {name}: {first_line(error)}") from None

    def get_table(self, name: str) -> pa.Table:
        """A whole Parquet file; errors as :meth:`get`."""
        return pq.read_table(io.BytesIO(self.get(name)))

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file of which only what is asked for is read."""
        return pq.ParquetFile(_RandomAccess(obstore.open_reader(self._store, self._path(name))))

    def delete(self, name: str) -> int:
        """Deletes a file; deleting one that is gone is no error.

        Returns:
            Bytes it had.
        """
        path = self._path(name)
        try:
            size = int(obstore.head(self._store, path)["size"])
            obstore.delete(self._store, path)
        except FileNotFoundError:
            return 0
        except (BaseError, OSError) as error:
            raise IndexerError(f"cannot delete {name}: {first_line(error)}") from None
        return size

    def names(self, folder: str) -> Iterator[str]:
        """Names of the files below ``folder``, none where it does not exist.

        Raises:
            IndexerError: The folder cannot be listed.
        """
        try:
            for batch in obstore.list(self._store, self._path(folder)):
                yield from (entry["path"].removeprefix(self._path("")) for entry in batch)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise IndexerError(f"cannot list {folder}: {first_line(error)}") from None

    def stems(self, folder: str) -> set[str]:
        """Names of the files of a folder without their suffix."""
        return {Path(path).stem for path in self.names(folder)}

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name


class _RandomAccess(io.RawIOBase):
    """A stored file as the file object Arrow asks for; obstore's own reader lacks part of the protocol."""

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


def _open(uri: str, setting: str) -> ObjectStore:
    try:
        if "://" not in uri:
            return LocalStore(Path(uri).expanduser().absolute(), mkdir=True)
        if uri.startswith("file://"):
            return from_url(uri, mkdir=True)
        return from_url(uri)
    except (BaseError, OSError, ValueError) as error:
        # obstore quotes the URI.
        raise IndexerError(f"{setting}: {shown(uri)} cannot be opened ({type(error).__name__})") from None
