"""Files below a folder of a disk. Symbolic links are followed, but not in a circle."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from indexer.corpus.files import DataFile
from indexer.progress import say

NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors of a link that leads to no file."""

NAMES_SHOWN = 3
"""Names that a progress line shows."""


def files_below(root: str) -> list[DataFile]:
    """Every file below a folder; none where there is no such folder.

    A link to a folder that holds it, or holds a link on the way to it, is left out, and a progress line says so: its
    files would be there again and again, as deep as the system follows links.

    Args:
        root: Path of the folder.

    Raises:
        OSError: A folder cannot be listed.
    """
    found: list[DataFile] = []
    circles: list[str] = []
    folder = os.fsencode(root)
    pending: list[tuple[bytes, bytes, tuple[bytes, ...]]] = []
    if os.path.isdir(folder):  # noqa: PTH112  # pathlib has no paths of bytes
        pending.append((folder, os.path.realpath(folder), ()))
    while pending:
        path, real, crossed = pending.pop()
        for entry, status in _entries(path):
            if not stat.S_ISDIR(status.st_mode):
                found += [_file(entry, status)] if stat.S_ISREG(status.st_mode) else []
            elif not entry.is_symlink():
                pending.append((entry.path, os.path.join(real, entry.name), crossed))  # noqa: PTH118  # bytes
            elif _is_within([*crossed, real], target := os.path.realpath(entry.path)):
                circles.append(_text(entry.path.removeprefix(folder).lstrip(b"/")))
            else:
                pending.append((entry.path, target, (*crossed, real)))
    if circles:
        shown = ", ".join(sorted(circles)[:NAMES_SHOWN]) + (", ..." if len(circles) > NAMES_SHOWN else "")
        say(f"left out below {root}: {len(circles)} that link to a folder that holds them: {shown}", "WARNING")
    return found


def _entries(folder: bytes) -> Iterator[tuple[os.DirEntry[bytes], os.stat_result]]:
    """What a folder holds, with the status of what it is or links to; without links that lead nowhere."""
    with os.scandir(folder) as listed:
        for entry in listed:
            try:
                status = entry.stat()
            except OSError as error:
                if entry.is_symlink() and error.errno in NOWHERE:
                    continue
                raise
            yield entry, status


def _file(entry: os.DirEntry[bytes], status: os.stat_result) -> DataFile:
    """A file as listed."""
    return DataFile(_text(entry.path), status.st_size, status.st_mtime_ns)


def _text(path: bytes) -> str:
    """A path as text; bytes that are not UTF-8 are escaped, and such a file cannot be opened."""
    return path.decode("utf-8", "backslashreplace")


def _is_within(folders: Iterable[bytes], holder: bytes) -> bool:
    """Whether one of the folders is another one or lies in it, all by their real paths."""
    inside = holder.rstrip(b"/") + b"/"
    return any(folder == holder or folder.startswith(inside) for folder in folders)
