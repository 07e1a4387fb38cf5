"""Files of a directory on a disk: written whole and durably, and only where there is none of the name."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


class Disk:
    """A directory. Nothing is created before the first put; errors are :class:`OSError`."""

    def __init__(self, root: Path) -> None:
        """Describes the directory.

        Raises:
            NotADirectoryError: There is something else of that name.
        """
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(f"{root} is not a directory")
        self._root = root

    def put(self, path: str, content: bytes | Path) -> bool:
        """Writes a file if there is none of the name; returns whether it wrote."""
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # The link is made only once the file is whole and on the disk: a power loss leaves all of it or nothing.
        partial = target.with_name(f".{target.name}.{uuid4().hex}")
        try:
            with partial.open("xb") as stream:
                if isinstance(content, bytes):
                    stream.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, stream)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                target.hardlink_to(partial)
            except FileExistsError:
                return False
        finally:
            partial.unlink(missing_ok=True)
        sync(target.parent)
        return True

    def get(self, path: str) -> bytes:
        """Content of a file."""
        return (self._root / path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        """A file that is read piece by piece."""
        return (self._root / path).open("rb")

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return (self._root / path).stat().st_size

    def delete(self, path: str) -> None:
        """Deletes a file."""
        (self._root / path).unlink()

    def refresh(self, path: str) -> None:
        """Makes a file as young as one written now."""
        os.utime(self._root / path)

    def files(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """Path, bytes and time of change, in seconds since 1970, of every file below a folder."""
        for parent, _, names in os.walk(self._root / folder):
            for name in names:
                try:
                    found = (Path(parent) / name).stat()
                except OSError:
                    continue  # gone in the meantime, or a link to nothing
                yield (Path(parent) / name).relative_to(self._root).as_posix(), found.st_size, found.st_mtime

    def folders(self) -> list[str]:
        """Names of the folders right below."""
        return [entry.name for entry in self._root.iterdir() if entry.is_dir()] if self._root.exists() else []


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
