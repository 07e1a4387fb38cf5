"""Deletes what no published epoch needs: versions, staged files, tables of old generations."""

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lance

from indexer.errors import IndexerError, first_line
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.reader_tags import holders, release_ended
from indexer.storage.tables import check_owner, open_latest, open_version, owner_of, table_path
from indexer.storage.tag_files import retried
from indexer.storage.tags import release, tagged


@dataclass(frozen=True)
class Freed:
    """What pruning a table deleted, and which readers hold versions that no epoch needs."""

    versions: int
    orphans: int
    bytes: int
    readers: set[str]


def prune(
    uri: str, name: str, needed: Mapping[int, int], closed: int, staged: Iterable[str], open_files: Iterable[str]
) -> Freed:
    """Deletes the versions that no epoch needs and the staged files that no version holds.

    Versions after the last needed one stay: they may belong to a commit under way. Versions with a tag stay too.

    Args:
        uri: LanceDB database.
        name: Table name.
        needed: Version to keep, by epoch.
        closed: The latest published epoch.
        staged: Data files staged for epochs that are published or given up.
        open_files: Data files staged for an epoch that is not published yet.

    Returns:
        What was deleted.

    Raises:
        IndexerError: Lance refuses.
    """
    folder = PutOnceFolder(uri, f"{name}.lance/data", "index.uri")
    for path in open_files:
        folder.refresh(path)  # Lance's clean-up deletes files that no version holds once they are a week old
    dataset = open_version(uri, name, max(needed.values()))
    try:
        release(dataset, needed, closed)
        release_ended(dataset)
        known = _versions(dataset)
        old = sorted(v for v in known - set(needed.values()) - tagged(dataset) if v < max(needed.values()))
        # Another process may tag a version at this moment; Lance then skips that version.
        stats = retried(partial(_clean_up, dataset, old)) if old else None
    except (OSError, ValueError) as error:
        raise IndexerError(f"cannot prune table {name}: {first_line(error)}") from None
    left = _versions(dataset)
    held = {
        file.path
        for version in left
        for fragment in lance.dataset(table_path(uri, name), version=version).get_fragments()
        for file in fragment.metadata.files
    }
    sizes = [folder.delete(path) for path in set(staged) - held]
    gone = [size for size in sizes if size]
    freed = sum(gone) + (stats.bytes_removed if stats else 0)
    return Freed(len(known - left), len(gone), freed, holders(dataset, set(needed.values())))


def _clean_up(dataset: lance.LanceDataset, versions: list[int]) -> Any:
    """Deletes versions, as Lance does: it reads the tags itself."""
    return dataset.cleanup_old_versions(versions=versions, error_if_tagged_old_versions=False)


def _versions(dataset: lance.LanceDataset) -> set[int]:
    """Numbers of the versions that a table still has."""
    return {int(version["version"]) for version in dataset.versions()}


def owned_tables(uri: str, owner: str) -> set[str]:
    """Names of the tables whose metadata names the owner."""
    names = [name.removesuffix(".lance") for name in PutOnceFolder(uri, "", "index.uri").folders()]
    found = ((name, open_latest(uri, name)) for name in names if name.startswith(f"{owner}_"))
    return {name for name, dataset in found if dataset is not None and owner_of(dataset) == owner}


def is_of_another(uri: str, name: str, owner: str) -> bool:
    """Whether another index or job has made the table that has this name now.

    Raises:
        IndexerError: The table cannot be opened.
    """
    dataset = open_latest(uri, name)
    return dataset is not None and owner_of(dataset) not in {None, owner}


def readers(uri: str, name: str) -> set[str]:
    """Readers that hold a version of a table.

    Raises:
        IndexerError: The table cannot be opened.
    """
    dataset = open_latest(uri, name)
    return set() if dataset is None else holders(dataset)


def drop(uri: str, name: str, owner: str) -> int:
    """Deletes a table of an old generation.

    Args:
        uri: LanceDB database.
        name: Table name, of a table that the owner made.
        owner: The index, or the job, whose table it is.

    Returns:
        Bytes of its files.

    Raises:
        SettingsError: Another index or job made it.
    """
    dataset = open_latest(uri, name)
    if dataset is not None:
        check_owner(dataset, name, owner, known={name})
    folder = PutOnceFolder(uri, f"{name}.lance", "index.uri")
    # Manifests go last: while one exists, a second call still finds the table and deletes the rest.
    files = sorted(folder.names(""), key=lambda file: file.startswith("_versions/"))
    freed = sum(folder.delete(file) for file in files)
    if "://" not in uri:
        shutil.rmtree(table_path(uri, name), ignore_errors=True)  # an object store has no empty folders, a disk has
    return freed


def remove_empty(uri: str) -> None:
    """Removes the folder of dropped tables, unless something else is in it.

    Args:
        uri: LanceDB database; an object store has no folders to remove.
    """
    if "://" not in uri:
        with suppress(OSError):  # missing, or not empty
            Path(uri).rmdir()
