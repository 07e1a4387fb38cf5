"""Where files are: disks, object stores, the Hugging Face hub."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from indexer.corpus.files import DataFile
from indexer.corpus.folders import files_below
from indexer.corpus.hub import HubPlace
from indexer.corpus.object_store import open_store
from indexer.errors import CorpusError, first_line
from indexer.storage.remote import SCHEMES, RemoteError
from indexer.uris import shown


class Place(Protocol):
    """Files of a disk or a store. Its methods raise :class:`OSError` where they fail."""

    def find(self, path: str) -> DataFile | None:
        """The file of a path, ``None`` if there is none."""

    def below(self, root: str) -> Iterable[DataFile]:
        """Every file below a directory; none where there is no such directory."""

    def open(self, path: str) -> pa.NativeFile:
        """A file that is read at any place."""

    def uri(self, path: str) -> str:
        """What another library opens a path by."""


class ArrowPlace:
    """A filesystem of Arrow."""

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        """Takes the filesystem and the beginning of its URIs."""
        self._filesystem = filesystem
        self._root = root

    def find(self, path: str) -> DataFile | None:
        """The file of a path, ``None`` if there is none."""
        info = self._filesystem.get_file_info(path)
        return _described(info) if info.is_file else None

    def below(self, root: str) -> Iterable[DataFile]:
        """Every file below a directory."""
        infos = self._filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        return [_described(info) for info in infos if info.is_file]

    def open(self, path: str) -> pa.NativeFile:
        """A file that is read at any place."""
        return self._filesystem.open_input_file(path)

    def uri(self, path: str) -> str:
        """What another library opens a path by."""
        return self._root + path


class DiskPlace(ArrowPlace):
    """A disk. Its paths are what other libraries open, as they are: in a URI they would have to be escaped."""

    def __init__(self) -> None:
        """Takes Arrow's filesystem for single files."""
        super().__init__(fs.LocalFileSystem(), root="")

    def below(self, root: str) -> Iterable[DataFile]:
        """Every file below a directory."""
        # Arrow follows links in a circle, and lists nothing where one name is not UTF-8.
        return files_below(root)


def _described(info: fs.FileInfo) -> DataFile:
    """The file of an entry of a listing."""
    return DataFile(info.path, info.size or 0, info.mtime_ns or 0)


def place_of(uri: str, setting: str) -> tuple[Place, str]:
    """Place of a URI and the path there.

    Args:
        uri: A path or a URI.
        setting: Name of the setting that gave it, for errors.

    Raises:
        CorpusError: There is no such place.
    """
    scheme, is_uri, rest = uri.partition("://")
    if not is_uri:
        return DiskPlace(), str(Path(uri).expanduser().absolute())
    try:
        if scheme == "hf":
            return HubPlace(), rest.rstrip("/")
        if scheme in SCHEMES:
            return open_store(uri)
        filesystem, path = fs.FileSystem.from_uri(uri)
    except CorpusError as error:
        raise CorpusError(f"{setting}: {shown(uri)} cannot be opened: {error}") from None
    except (OSError, ValueError, pa.ArrowException, RemoteError) as error:
        # Arrow and obstore quote the URI, which may hold a secret.
        raise CorpusError(f"{setting}: {shown(uri)} cannot be opened ({type(error).__name__})") from None
    if isinstance(filesystem, fs.LocalFileSystem):
        return DiskPlace(), path
    return ArrowPlace(filesystem, f"{scheme}://{urlsplit(uri).netloc}"), path


def read_small_file(uri: str, setting: str, file: DataFile | None = None) -> bytes:
    """The bytes of a small file.

    Args:
        uri: Where it is, or where it was listed.
        setting: Name of the setting that gave it, for errors.
        file: One of the files listed there; by default the URI is the file's own.

    Returns:
        Its content.

    Raises:
        CorpusError: It cannot be read.
    """
    place, path = place_of(uri, setting)
    try:
        with place.open(file.path if file else path) as opened:
            return bytes(opened.read())
    except OSError as error:
        raise CorpusError(f"{setting}: {shown(uri)} cannot be read: {first_line(error)}") from None
