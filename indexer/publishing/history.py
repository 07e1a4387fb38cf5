"""Lists, shows, rolls back and prunes published epochs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from indexer import schema
from indexer.errors import RefusedError, SettingsError
from indexer.storage import cleanup, tables
from indexer.storage.control import ControlStore
from indexer.storage.description import Description, RunTotals
from indexer.storage.records import Epoch, now
from indexer.storage.tags import is_begun, protect


def epochs(store: ControlStore, most: int | None = None) -> list[dict[str, Any]]:
    """The main facts of the published epochs, in order, JSON-ready: of all, or of the latest ``most``."""
    return [_listed(epoch, held=store.is_held(epoch)) for epoch in store.epochs(most)]


def _listed(epoch: Epoch, *, held: bool) -> dict[str, Any]:
    """The main facts of one epoch."""
    run, counts = epoch.description.run, epoch.description.counts
    return {
        "epoch": epoch.number,
        "published": epoch.published,
        "generation": epoch.generation,
        "rows": {table.name: table.rows for table in epoch.searched},
        **counts.model_dump(include={"new", "changed", "deleted"}),
        "documents": run.documents,
        "indexed": run.indexed,
        "quarantined": run.quarantined,
        "tokens_per_second": run.tokens_per_second,
        "bytes": {table.name: table.bytes for table in epoch.searched},
        "rollback_of": epoch.description.rollback_of,
        "held": held,
    }


def show(store: ControlStore, number: int) -> Epoch:
    """One epoch with its whole record.

    Raises:
        SettingsError: There is no such epoch.
    """
    numbers = store.epoch_numbers()
    if number not in numbers:
        raise SettingsError(f"there is no epoch {number}; there are {', '.join(map(str, numbers)) or 'none'}")
    return store.epoch(number)


def rollback(uri: str, store: ControlStore, number: int, *, hold: bool = False) -> Epoch:
    """Publishes an old epoch's tables again, as a new epoch; nothing is copied or deleted.

    This gives up an epoch that a run has begun and not published. The next run of ``jobs.index`` brings the index up to
    date with the corpus again. If the rollback holds, runs are refused until :func:`resume`.

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
    # Pruning deletes the epoch's file first: if it still exists, the tags were set in time.
    show(store, number)
    lists = _lists(store, target.description, again.number)
    again = again.model_copy(update={"description": again.description.model_copy(update=lists)})
    name, version = again.quarantine
    store.put_quarantine(again.number, version, tables.read_all(uri, name, version, schema.QUARANTINE_SCHEMA))
    published = store.put_epoch(again)
    if published != again:
        raise RefusedError(f"another run published epoch {published.number} in the meantime; look at it and try again")
    return published


def _lists(store: ControlStore, described: Description, number: int) -> dict[str, str]:
    """The lists of an epoch under another one's number: a prune deletes those of the epoch that it forgets."""
    digests = store.digests
    found = {}
    if described.files is not None:
        found["files"] = digests.put_list(number, digests.get_list(described.files))
    if described.copies is not None:
        found["copies"] = digests.put_copies(number, digests.get_copies(described.copies))
    return found


def _again(target: Epoch, number: int, *, hold: bool) -> Epoch:
    """The epoch that a rollback publishes: the target's tables, and counts of a run that did nothing."""
    counts, run = target.description.counts, target.description.run
    documents = target.description.documents
    zero = ("new", "changed", "payload_changed", "deleted", "kept", "text_bytes", "moved", "copied")
    nothing = dict.fromkeys(zero, 0)
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
    """Ends the hold of a rollback, so that the next run updates the index.

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
    """Refuses a run while a rollback holds the index.

    Raises:
        RefusedError: A rollback holds it.
    """
    if latest is not None and store.is_held(latest):
        raise RefusedError(
            f"a rollback to epoch {latest.description.rollback_of} holds the index at epoch {latest.number}: nothing "
            "was done; jobs.publish resume lets runs go on"
        )


@dataclass
class Pruned:
    """Result of pruning.

    Attributes:
        epochs: Epochs forgotten.
        versions: Versions of tables deleted.
        tables: Tables of old generations and of removed widths dropped.
        orphans: Staged files deleted that no version holds.
        bytes: Bytes freed.
        readers: Readers that hold what would have been deleted.
    """

    epochs: list[int]
    versions: int = 0
    tables: int = 0
    orphans: int = 0
    bytes: int = 0
    readers: int = 0


def _unneeded(uri: str, name: str, published: Sequence[Epoch]) -> set[str]:
    """Tables up to the published generation, removed ones too; a later generation may be under construction."""
    if not published:
        return set()
    pattern = re.compile(rf"{re.escape(name)}(?:_g(\d+))?_(?:d\d+|documents|quarantine)")
    found = ((table, pattern.fullmatch(table)) for table in cleanup.owned_tables(uri, name))
    return {table for table, match in found if match and int(match[1] or 1) <= published[-1].generation}


def _drop(uri: str, store: ControlStore, names: Sequence[str], pruned: Pruned) -> set[str]:
    """Deletes tables that nobody reads and counts them; returns the readers of the others."""
    readers: set[str] = set()
    for name in names:
        if found := cleanup.readers(uri, name):
            readers |= found
        else:
            pruned.bytes += cleanup.drop(uri, name, store.name)
            pruned.tables += 1
    return readers


def prune(uri: str, store: ControlStore, keep: int) -> Pruned:
    """Deletes everything that only older epochs need. Safe beside a running job, which builds on the latest epoch.

    Versions that a reader holds stay, until a prune after it has gone: :mod:`indexer.storage.reader_tags`.

    Versions after the latest epoch's stay: a run may be committing them. Staged files without a receipt stay too: a
    worker may be writing them.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        keep: Epochs to keep, with everything that their readers need.

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
            # Somebody may have deleted the table or restored an older one: then there is no version to keep.
            if tables.has_version(uri, name, version):
                versions[epoch.number] = version
    known = {name for epoch in published for name in epoch.versions()} | _unneeded(uri, store.name, published)
    # Tables of a rebuild that a rollback gave up: no epoch names them, and no later run reuses their generation.
    known |= {name for intent in store.closed_intents(latest) for name in intent.bases}
    # Somebody may have deleted a table of ours, and another index have made one of its name.
    theirs = {name for name in known if cleanup.is_of_another(uri, name, store.name)}
    # Epoch files go first: if this is interrupted, every epoch that is still listed can be opened.
    store.forget_epochs(pruned.epochs)
    staged = store.staged_files(up_to=latest)
    begun = store.begun_files(after=latest)
    # A run may be staging for a width that no kept epoch has.
    unneeded = known - theirs - needed.keys() - begun.keys()
    readers = _drop(uri, store, sorted(name for name in unneeded if not is_begun(uri, name, latest)), pruned)
    for name, versions in ((name, found) for name, found in needed.items() if found and name not in theirs):
        freed = cleanup.prune(uri, name, versions, latest, staged.get(name, ()), begun.get(name, ()))
        pruned.versions += freed.versions
        pruned.orphans += freed.orphans
        pruned.bytes += freed.bytes
        readers |= freed.readers
    pruned.readers = len(readers)
    store.forget_work(kept, closed=latest)
    return pruned
