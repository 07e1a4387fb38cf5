"""Files of data sets on the Hugging Face hub: ``hf://datasets/owner/name@revision/path``."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from indexer.corpus.files import DataFile
from indexer.errors import first_line

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

KIND = "dataset"

PATH = re.compile(r"datasets/([^/@]+/[^/@]+)(?:@((?:refs/(?:convert|pr)/)?[^/]+))?(?:/(.*))?")
"""A path on the hub."""

BLOCK_BYTES = 8 << 20
"""Bytes of one request."""


class HubPlace:
    """Data sets of the hub. It tells no times: what it tells of a file's bytes is the file's identity.

    ``HF_ENDPOINT`` and ``HF_TOKEN`` are read from the environment. The hub's client repeats failed reads with backoff.
    """

    def __init__(self) -> None:
        """Opens the hub without a request."""
        from huggingface_hub import HfApi, HfFileSystem
        from huggingface_hub.hf_api import RepoFile

        self._file_type = RepoFile
        self._api = HfApi()
        # The client keeps listings per process, whatever has changed since.
        self._files = HfFileSystem(skip_instance_cache=True)

    def find(self, path: str) -> DataFile | None:
        """The file of a path, ``None`` if there is none."""
        with _faults():
            repo, revision, inside = _parts(path)
            found = self._api.get_paths_info(repo, [inside], revision=revision, repo_type=KIND) if inside else []
            return next((_file(path, entry) for entry in found if isinstance(entry, self._file_type)), None)

    def below(self, root: str) -> Iterable[DataFile]:
        """Every file below a directory."""
        from huggingface_hub.errors import EntryNotFoundError

        repo, revision, inside = _parts(root)
        with _faults():
            try:
                listed = self._api.list_repo_tree(repo, inside, recursive=True, revision=revision, repo_type=KIND)
                found = [entry for entry in listed if isinstance(entry, self._file_type)]
            except EntryNotFoundError:
                return []
        top = root.removesuffix(inside).rstrip("/")
        return [_file(f"{top}/{entry.path}", entry) for entry in found]

    def open(self, path: str) -> pa.NativeFile:
        """A file that is read by ranges."""
        with _faults():
            return pa.PythonFile(self._files.open(path, "rb", block_size=BLOCK_BYTES), mode="r")

    def uri(self, path: str) -> str:
        """What another library opens a path by."""
        return f"hf://{path}"


def _parts(path: str) -> tuple[str, str | None, str]:
    """Repository, revision and path in it."""
    found = PATH.fullmatch(path)
    if found is None:
        raise OSError("a place on the hub is hf://datasets/owner/name, with @revision and a path after it if wanted")
    repo, revision, inside = found.groups()
    return repo, unquote(revision) if revision else None, inside or ""


@contextmanager
def _faults() -> Iterator[None]:
    """Makes what the hub's client raises an :class:`OSError`: some errors are those of its HTTP library."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # whichever library that is
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from None


def _file(path: str, entry: "RepoFile") -> DataFile:
    """An entry of a listing; large files have the SHA-256 of their bytes, others that of their git blob."""
    return DataFile(path, entry.size, 0, entry.lfs.sha256 if entry.lfs else entry.blob_id)
