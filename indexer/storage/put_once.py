"""Small files at a URI, each put once and never changed.

Writing a name that exists changes nothing and returns false, on local disks and on object stores. Several processes may
therefore do the same work and agree on the first result.
An empty file counts as missing: a power loss can leave one.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from indexer.errors import DamagedFile, IndexerError
from indexer.storage.disk import Disk
from indexer.storage.remote import Remote, RemoteError, reason_of
from indexer.uris import shown


class Record(BaseModel):
    """Content of a control file, written as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self, indent: int | None = None) -> str:
        """The record as JSON; optional keys appear only if they were given."""
        return self.model_dump_json(exclude_unset=True, indent=indent)

    @classmethod
    def from_file(cls, files: "PutOnceFolder", name: str) -> Self:
        """Reads a record.

        Raises:
            IndexerError: The file is missing or cannot be read.
            DamagedFile: It does not hold such a record.
        """
        try:
            return cls.model_validate_json(files.get(name))
        except ValidationError as error:
            raise DamagedFile(
                f"{name} is damaged, or written by a later version ({error.error_count()} problems in it)"
            ) from None


GROUP_ROWS = 1 << 14
"""Rows per row group of a table. A range of a sorted table touches few groups."""

OUR_NAME = re.compile(r"([A-Za-z0-9_-]+)\.(json|parquet)")
"""Pattern of our file names. Any other file, such as .DS_Store, is not ours."""


class PutOnceFolder:
    """Files of one folder."""

    def __init__(self, uri: str, folder: str, setting: str) -> None:
        """Opens the folder.

        Args:
            uri: Directory, made with the first file, or object-store URI.
            folder: Folder in it, made with the first file; empty for the URI itself.
            setting: Name of the setting that gave the URI, for errors.

        Raises:
            IndexerError: The location cannot be opened.
        """
        try:
            self._store = _open(uri)
        except OSError as error:
            raise IndexerError(f"{setting}: {reason_of(error)}") from None
        except (RemoteError, ValueError) as error:
            # obstore quotes the URI, which may hold a secret.
            raise IndexerError(f"{setting}: {shown(uri)} cannot be opened ({type(error).__name__})") from None
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
        path = self._path(name)
        try:
            if self._store.put(path, content):
                return True
            if self._store.size(path):
                return False
            # An empty file is what a power loss left: replace it.
            self._store.delete(path)
            return self._store.put(path, content)
        except (RemoteError, OSError) as error:
            raise IndexerError(f"cannot write {name}: {reason_of(error)}") from None

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
            return self._store.get(self._path(name))
        except (RemoteError, OSError) as error:
            raise IndexerError(f"cannot read {name}: {reason_of(error)}") from None

    def get_table(self, name: str) -> pa.Table:
        """A whole Parquet file; errors as :meth:`get`."""
        return pq.read_table(io.BytesIO(self.get(name)))

    def parquet(self, name: str) -> pq.ParquetFile:
        """Opens a Parquet file, of which only the requested columns and row groups are read.

        Raises:
            IndexerError: It is missing or cannot be read.
        """
        try:
            return pq.ParquetFile(self._store.open(self._path(name)))
        except (RemoteError, OSError, pa.ArrowInvalid) as error:
            raise IndexerError(f"cannot read {name}: {reason_of(error)}") from None

    def delete(self, name: str) -> int:
        """Deletes a file; deleting one that is gone is no error.

        Returns:
            Bytes it had.
        """
        path = self._path(name)
        try:
            size = self._store.size(path)
            self._store.delete(path)
        except FileNotFoundError:
            return 0
        except (RemoteError, OSError) as error:
            raise IndexerError(f"cannot delete {name}: {reason_of(error)}") from None
        return size

    def refresh(self, name: str) -> None:
        """Makes a file as young as one put now; one that is gone stays gone."""
        try:
            self._store.refresh(self._path(name))
        except FileNotFoundError:
            return
        except (RemoteError, OSError) as error:
            raise IndexerError(f"cannot write {name}: {reason_of(error)}") from None

    def names(self, folder: str) -> Iterator[str]:
        """Names of all files below ``folder``, ours or not, none where it does not exist.

        Raises:
            IndexerError: The folder cannot be listed.
        """
        return (name for name, _, _ in self._listed(folder))

    def sizes(self) -> dict[str, int]:
        """Bytes of every file of the folder by name; errors as :meth:`names`."""
        return {name: size for name, size, _ in self._listed("")}

    def times(self, folder: str) -> dict[str, float]:
        """Seconds since 1970 at which each of our files in ``folder`` was put, by stem; errors as :meth:`names`."""
        return {stem: time for stem, size, time in self._ours(folder) if size}

    def stems(self, folder: str) -> set[str]:
        """Names without suffix of our files in ``folder``; empty and foreign files are skipped."""
        return {stem for stem, size, _ in self._ours(folder) if size}

    def folders(self) -> list[str]:
        """Names of the folders at the URI; errors as :meth:`names`."""
        try:
            return self._store.folders()
        except (RemoteError, OSError) as error:
            raise IndexerError(f"cannot list: {reason_of(error)}") from None

    def _ours(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """Stem, size and time of our files in a folder."""
        for name, size, time in self._listed(folder):
            ours = OUR_NAME.fullmatch(name.removeprefix(f"{folder}/"))
            if ours:
                yield ours[1], size, time

    def _listed(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """Names, sizes and times of the files below ``folder``."""
        try:
            for path, size, time in self._store.files(self._path(folder)):
                yield path.removeprefix(self._path("")), size, time
        except FileNotFoundError:
            return
        except (RemoteError, OSError) as error:
            raise IndexerError(f"cannot list {folder}: {reason_of(error)}") from None

    def _path(self, name: str) -> str:
        """Path of a file below the URI."""
        return f"{self._folder}/{name}" if self._folder else name


def _open(uri: str) -> Disk | Remote:
    """The store of a URI: a directory or an object store."""
    if "://" not in uri:
        return Disk(Path(uri).expanduser().absolute())
    if uri.startswith("file://"):
        return Disk(Path(unquote(urlsplit(uri).path)))
    return Remote(uri)
