"""Compares the tables of an index with its control files."""

from collections.abc import Sequence
from dataclasses import replace

from indexer.errors import IndexerError, RefusedError, SettingsError
from indexer.schema import Layout
from indexer.storage import commits
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch
from indexer.storage.tables import check_owner, entries, epoch_of, open_if_there, open_latest, owner_of


def missing_tables(uri: str, epoch: Epoch) -> list[str]:
    """Tables of an epoch whose version is gone, whole or in part: cleaned up, or the table was deleted or restored.

    Raises:
        IndexerError: The store does not answer.
    """
    return [name for name, version in epoch.versions().items() if not _is_there(uri, name, version, epoch.intent)]


def _is_there(uri: str, name: str, version: int, intent: str) -> bool:
    """Whether the version exists and is the epoch's: a restored table may have another version of the same number.

    Epochs made before 0.2 do not record their intent.
    """
    dataset = open_if_there(uri, name, version)
    if dataset is None or intent not in {"", entries(dataset).get("intent")}:
        return False
    return commits.is_whole(uri, name, dataset)


def refuse_newer_tables(uri: str, store: ControlStore, layout: Layout, number: int) -> None:
    """Refuses tables that hold epochs missing from the control files.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        layout: The tables.
        number: Number of the next epoch.

    Raises:
        RefusedError: The control folder is older than the tables, or gone.
    """
    for name in layout.schemas():
        dataset = open_latest(uri, name)
        at = epoch_of(dataset) if dataset is not None and owner_of(dataset) in {None, store.name} else 0
        if at > number and store.next_number() == number:
            raise RefusedError(
                f"table {name} is at epoch {at}, but the control folder _{store.name} ends with epoch {number - 1}: "
                "the folder was restored from an older backup, or deleted; restore the newer folder, or build a new "
                "generation beside these tables with --rebuild always"
            )


def refuse_foreign_tables(uri: str, store: ControlStore, names: Sequence[str]) -> None:
    """Refuses tables of others that have names the next epoch needs.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        names: Tables that the next epoch writes anew.

    Raises:
        SettingsError: One of them is not ours; the message names a way out.
    """
    known = {name for epoch in store.epochs() for name in epoch.versions()} if names else set()
    for name in names:
        dataset = open_latest(uri, name)
        if dataset is None:
            continue
        try:
            check_owner(dataset, name, store.name, known)
        except SettingsError as error:
            raise SettingsError(f"{error}, or build a new generation beside it with --rebuild always") from None


def free_generation(uri: str, store: ControlStore, layout: Layout) -> Layout:
    """The layout in the next generation whose tables are all free: neither foreign nor ever published.

    Raises:
        IndexerError: The store does not answer.
    """
    found = replace(layout, generation=store.next_generation())
    while not all(_is_free(uri, name, store.name) for name in found.schemas()):
        found = replace(found, generation=found.generation + 1)
    return found


def _is_free(uri: str, name: str, owner: str) -> bool:
    """Whether there is no such table, or only our own from an interrupted rebuild that no epoch committed to."""
    try:
        dataset = open_latest(uri, name)
    except IndexerError:
        return False
    return dataset is None or (owner_of(dataset) == owner and not epoch_of(dataset))
