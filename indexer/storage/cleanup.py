"""Deletes what no published epoch needs: versions, staged files, tables of old generations."""

import shutil
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lance

from indexer.storage.put_once import PutOnceFolder
from indexer.storage.tables import table_path

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Freed:
    """What pruning a table took away."""

    versions: int
    orphans: int
    bytes: int


def prune(uri: str, name: str, needed: Set[int], staged: Iterable[str]) -> Freed:
    """Deletes versions that nobody needs and staged files that no version holds.

    Versions after the last needed one belong to a commit under way and stay.

    Args:
        uri: LanceDB database.
        name: Table name.
        needed: Versions to keep.
        staged: Data files staged for epochs that are published or given up.

    Returns:
        What was deleted.
    """
    dataset = lance.dataset(table_path(uri, name))
    known = {int(version["version"]) for version in dataset.versions()}
    old = sorted(version for version in known - needed if version < max(needed))
    stats = dataset.cleanup_old_versions(versions=old) if old else None
    held = {
        file.path
        for version in known - set(old)
        for fragment in lance.dataset(table_path(uri, name), version=version).get_fragments()
        for file in fragment.metadata.files
    }
    folder = PutOnceFolder(uri, f"{name}.lance/data", "index.uri")
    sizes = [folder.delete(path) for path in set(staged) - held]
    gone = [size for size in sizes if size]
    return Freed(len(old), len(gone), sum(gone) + (stats.bytes_removed if stats else 0))


def drop(uri: str, name: str) -> int:
    """Deletes a table of an old generation.

    Returns:
        Bytes of its files.
    """
    folder = PutOnceFolder(uri, f"{name}.lance", "index.uri")
    # The manifests last: until they are gone a second call finds what the first one left.
    files = sorted(folder.names(""), key=lambda file: file.startswith("_versions/"))
    freed = sum(folder.delete(file) for file in files)
    if "://" not in uri:
        shutil.rmtree(table_path(uri, name), ignore_errors=True)  # an object store has no empty folders, a disk has
    return freed
