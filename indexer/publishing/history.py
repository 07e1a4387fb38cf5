"""Published epochs after the fact: list, show, roll back, prune."""

from dataclasses import dataclass
from typing import Any

from indexer.errors import RefusedError, SettingsError
from indexer.storage import cleanup
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch, now
from indexer.storage.tables import table_schema


def epochs(store: ControlStore) -> list[dict[str, Any]]:
    """The published epochs in their order, a few facts of each, JSON-ready."""
    return [_listed(store.epoch(number)) for number in store.epoch_numbers()]


def _listed(epoch: Epoch) -> dict[str, Any]:
    run, counts = epoch.description.run, epoch.description.counts
    return {
        "epoch": epoch.number,
        "published": epoch.published,
        "generation": epoch.generation,
        "rows": {table.name: table.rows for table in epoch.tables},
        **counts.model_dump(include={"new", "changed", "deleted"}),
        "indexed": run.indexed,
        "quarantined": run.quarantined,
        "rollback_of": epoch.description.rollback_of,
    }


def show(store: ControlStore, number: int) -> Epoch:
    """One epoch, with everything that is known of it.

    Raises:
        SettingsError: There is no such epoch.
    """
    numbers = store.epoch_numbers()
    if number not in numbers:
        raise SettingsError(f"there is no epoch {number}; there are {', '.join(map(str, numbers)) or 'none'}")
    return store.epoch(number)


def rollback(uri: str, store: ControlStore, number: int) -> Epoch:
    """Publishes an old epoch's tables again, as a new epoch; nothing is copied or deleted.

    An epoch that a run has begun and not published is given up by this. The next run of ``jobs.index`` brings the index
    up to date with the corpus again.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        number: The epoch to return to.

    Returns:
        The new epoch.

    Raises:
        SettingsError: There is no such epoch.
        IndexerError: Its tables were pruned.
        RefusedError: Another run published in the meantime.
    """
    target = show(store, number)
    for name, version in target.versions().items():
        table_schema(uri, name, version)
    again = target.model_copy(
        update={
            "number": store.epoch_numbers()[-1] + 1,
            "published": now(),
            "description": target.description.model_copy(update={"rollback_of": number}),
        }
    )
    published = store.put_epoch(again)
    if published.description.rollback_of != number:
        raise RefusedError(f"another run published epoch {published.number} in the meantime; look at it and try again")
    return published


@dataclass
class Pruned:
    """What pruning took away.

    Attributes:
        epochs: Epochs forgotten.
        versions: Versions of tables deleted.
        tables: Tables of old generations dropped.
        orphans: Staged files deleted that no version holds.
        bytes: Bytes freed.
    """

    epochs: list[int]
    versions: int = 0
    tables: int = 0
    orphans: int = 0
    bytes: int = 0


def prune(uri: str, store: ControlStore, keep: int) -> Pruned:
    """Deletes what only older epochs need. Safe beside a running job, which builds on the latest epoch.

    Versions after the latest epoch's belong to a run that is committing and stay, and so do staged files without a
    receipt: a worker may be writing them.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        keep: Epochs to keep, with everything that readers of them need.

    Returns:
        What was deleted.
    """
    numbers = store.epoch_numbers()
    kept, old = numbers[-keep:], numbers[:-keep]
    pruned = Pruned(old)
    needed: dict[str, set[int]] = {}
    for epoch in map(store.epoch, kept):
        for name, version in epoch.versions().items():
            needed.setdefault(name, set()).add(version)
    latest = numbers[-1] if numbers else 0
    known = {name for number in old for name in store.epoch(number).versions()}
    # A rebuild that a rollback gave up: no epoch names its tables, and no later run takes its generation.
    known |= {name for intent in store.closed_intents(latest) for name in intent.bases}
    staged = store.staged_files(up_to=latest)
    for name in sorted(known - needed.keys()):
        pruned.bytes += cleanup.drop(uri, name)
        pruned.tables += 1
    for name, versions in needed.items():
        freed = cleanup.prune(uri, name, versions, staged.get(name, ()))
        pruned.versions += freed.versions
        pruned.orphans += freed.orphans
        pruned.bytes += freed.bytes
    store.forget(old, closed=latest)
    return pruned
