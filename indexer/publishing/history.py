"""Published epochs after the fact: list, show, roll back, prune."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from indexer import schema
from indexer.errors import RefusedError, SettingsError
from indexer.storage import cleanup, tables
from indexer.storage.control import ControlStore
from indexer.storage.description import RunTotals
from indexer.storage.records import Epoch, now
from indexer.storage.tags import is_begun, protect


def epochs(store: ControlStore) -> list[dict[str, Any]]:
    """The published epochs in their order, a few facts of each, JSON-ready."""
    return [_listed(epoch, held=store.is_held(epoch)) for epoch in store.epochs()]


def _listed(epoch: Epoch, *, held: bool) -> dict[str, Any]:
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
        "held": held,
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


def rollback(uri: str, store: ControlStore, number: int, *, hold: bool = False) -> Epoch:
    """Publishes an old epoch's tables again, as a new epoch; nothing is copied or deleted.

    An epoch that a run has begun and not published is given up by this. The next run of ``jobs.index`` brings the index
    up to date with the corpus again, unless the rollback holds: then runs are refused until :func:`resume`.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        number: The epoch to return to.
        hold: Whether the index stays at this epoch.

    Returns:
        The new epoch.

    Raises:
        SettingsError: There is no such epoch.
        IndexerError: Its tables were pruned.
        RefusedError: Another run published in the meantime.
    """
    target = show(store, number)
    again = _again(target, store.next_number(), hold=hold)
    protect(uri, again.versions(), again.number)
    # Pruning deletes the epoch's file first: while it is there, the tags were set in time.
    show(store, number)
    name, version = again.quarantine
    batches = tables.read(uri, name, version, schema.QUARANTINE_SCHEMA.names)
    store.put_quarantine(again.number, version, pa.Table.from_batches(batches, schema.QUARANTINE_SCHEMA))
    published = store.put_epoch(again)
    if published != again:
        raise RefusedError(f"another run published epoch {published.number} in the meantime; look at it and try again")
    return published


def _again(target: Epoch, number: int, *, hold: bool) -> Epoch:
    """An epoch as a rollback publishes it: with its tables, and with counts that say that nothing was done."""
    counts, run = target.description.counts, target.description.run
    documents = counts.unchanged + counts.kept + counts.moved + run.indexed
    nothing = dict.fromkeys(("new", "changed", "deleted", "kept", "text_bytes", "moved"), 0)
    idle = RunTotals(**dict.fromkeys(RunTotals.model_fields, 0))
    description = target.description.model_copy(
        update={
            "counts": counts.model_copy(update=nothing | {"unchanged": documents}),
            "run": idle.model_copy(update={"documents": run.documents, "quarantined": run.quarantined}),
            "maintenance": {},
            "rollback_of": target.number,
            "hold": hold,
        }
    )
    return target.model_copy(update={"number": number, "published": now(), "description": description})


def resume(store: ControlStore) -> Epoch:
    """Ends the hold of a rollback: the next run goes on.

    Returns:
        The latest epoch.

    Raises:
        SettingsError: The index is not held.
    """
    latest = store.latest_epoch()
    if latest is None or not store.is_held(latest):
        raise SettingsError("the index is not held: there is nothing to resume")
    store.resume(latest.number)
    return latest


def refuse_held(store: ControlStore, latest: Epoch | None) -> None:
    """Refuses to go on while a rollback holds the index.

    Raises:
        RefusedError: It does.
    """
    if latest is not None and store.is_held(latest):
        raise RefusedError(
            f"a rollback to epoch {latest.description.rollback_of} holds the index at epoch {latest.number}: nothing "
            "was done; jobs.publish resume lets runs go on"
        )


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


def _older(uri: str, name: str, published: Sequence[Epoch]) -> set[str]:
    """Tables of the index of generations before the published one; a later one may be being built."""
    if not published:
        return set()
    pattern = re.compile(rf"{re.escape(name)}(?:_g(\d+))?_(?:d\d+|quarantine)")
    found = ((table, pattern.fullmatch(table)) for table in cleanup.owned_tables(uri, name))
    return {table for table, match in found if match and int(match[1] or 1) < published[-1].generation}


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
    published = store.epochs()
    kept = published[-keep:]
    latest = max(store.epoch_numbers(), default=0)
    pruned = Pruned([epoch.number for epoch in published[:-keep]])
    needed: dict[str, dict[int, int]] = {}
    for epoch in kept:
        for name, version in epoch.versions().items():
            versions = needed.setdefault(name, {})
            # Somebody may have deleted the table, or restored an older one: of that nothing can be kept.
            if tables.has_version(uri, name, version):
                versions[epoch.number] = version
    known = {name for epoch in published for name in epoch.versions()} | _older(uri, store.name, published)
    # A rebuild that a rollback gave up: no epoch names its tables, and no later run takes its generation.
    known |= {name for intent in store.closed_intents(latest) for name in intent.bases}
    # From here on nobody opens the old epochs: if this is interrupted, none is listed that cannot be opened.
    store.forget_epochs(pruned.epochs)
    staged = store.staged_files(up_to=latest)
    begun = store.begun_files(after=latest)
    for name in sorted(name for name in known - needed.keys() if not is_begun(uri, name, latest)):
        pruned.bytes += cleanup.drop(uri, name, store.name)
        pruned.tables += 1
    for name, versions in ((name, versions) for name, versions in needed.items() if versions):
        freed = cleanup.prune(uri, name, versions, latest, staged.get(name, ()), begun.get(name, ()))
        pruned.versions += freed.versions
        pruned.orphans += freed.orphans
        pruned.bytes += freed.bytes
    store.forget_work(kept, closed=latest)
    return pruned
