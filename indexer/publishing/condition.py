"""Whether the tables of an index are those that its control files tell of."""

from dataclasses import replace

from indexer.errors import IndexerError, RefusedError
from indexer.schema import Layout
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch
from indexer.storage.tables import epoch_of, has_version, metadata, open_latest, owner_of


def missing_tables(uri: str, epoch: Epoch) -> list[str]:
    """Tables of an epoch whose version is gone: a clean-up took it, or somebody deleted or restored the table.

    Raises:
        IndexerError: The store does not answer.
    """
    return [name for name, version in epoch.versions().items() if not _is_there(uri, name, version, epoch.intent)]


def _is_there(uri: str, name: str, version: int, intent: str) -> bool:
    """Whether the version is there and is the epoch's: a table restored from a backup may have another of its number.

    Epochs made before 0.2 do not tell which intent they were made of.
    """
    return has_version(uri, name, version) and intent in {"", metadata(uri, name, version).get("intent")}


def refuse_newer_tables(uri: str, store: ControlStore, layout: Layout, number: int) -> None:
    """Refuses to write to tables that have seen epochs which the control files do not know.

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


def free_generation(uri: str, store: ControlStore, layout: Layout) -> Layout:
    """The layout in the next generation none of whose tables is somebody else's or was published before.

    Raises:
        IndexerError: The store does not answer.
    """
    found = replace(layout, generation=store.next_generation())
    while not all(_is_free(uri, name, store.name) for name in found.schemas()):
        found = replace(found, generation=found.generation + 1)
    return found


def _is_free(uri: str, name: str, owner: str) -> bool:
    """Whether there is no such table, or one of ours that no epoch has touched: a rebuild was interrupted."""
    try:
        dataset = open_latest(uri, name)
    except IndexerError:
        return False
    return dataset is None or (owner_of(dataset) == owner and not epoch_of(dataset))
