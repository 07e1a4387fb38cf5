"""Commits: the change of an epoch to a table, made exactly once, however many processes try."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance import LanceOperation
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata
from lance.schema import LanceSchema

from indexer import schema
from indexer.errors import CannotFinish, IndexerError, first_line
from indexer.storage.lookups import looked_up
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.tables import (
    EPOCH_KEY,
    INTENT_KEY,
    METADATA_PREFIX,
    OWNER_KEY,
    check_owner,
    epoch_of,
    open_latest,
    open_version,
)

MESSAGE = "__lance_commit_message"
"""Where Lance keeps a commit's message among the properties of its transaction."""

KEEPS_ROWS = (LanceOperation.Rewrite, LanceOperation.CreateIndex)
"""Operations of maintenance. Its reservation of fragment ids has no class of its own in Python."""

UNSHOWN_REWRITE = "RewrittenIndex"
"""What pylance 14 names in its error when it cannot show a compaction that renumbers rows of an index."""

ADDRESS_BITS = 32
"""A Lance row address is the fragment's id and, in the lower 32 bits, the row's offset in it."""

LOOKED_UP = 64
"""Ids are looked up in the index if at most one row in so many is dropped; reading all ids is quicker for more."""

LISTED = 20_000
"""Dropped ids that are a list of Python's at once."""

NOTHING = 0
"""Base of an epoch that starts from nothing: its rows replace the whole content."""


@dataclass(frozen=True)
class Change:
    """What one epoch does to one table.

    Attributes:
        epoch: Number of the epoch.
        intent: Digest of the intent: the change is done if a commit names this intent.
        base: Version that the change starts from, or :data:`NOTHING`.
        added: Staged fragments, as Lance describes them.
        dropped: Ids whose rows are deleted; ``None`` if the added fragments replace the whole content.
        metadata: Schema metadata of the result.
        owner: The index, or the job, whose table it is.
        columns: Columns of the result, if the added fragments replace the whole content and bring columns of their own.
    """

    epoch: int
    intent: str
    base: int
    added: Sequence[dict[str, Any]]
    dropped: pa.ChunkedArray | None
    metadata: Mapping[str, str]
    owner: str
    columns: pa.Schema | None = None


def commit(uri: str, name: str, change: Change) -> int:
    """Makes an epoch's change to a table exactly once, however many processes call it.

    The commit replaces the table's list of fragments if the version is still the one read (compare and swap). Its
    transaction names the intent. If others have written rows since, the commit is made again from the base.

    Args:
        uri: LanceDB database.
        name: Table name.
        change: What to do.

    Returns:
        The version that the change made.

    Raises:
        SettingsError: The table is not the owner's.
        CannotFinish: A staged file, the base or the table is gone, or the table is already at a later epoch.
        IndexerError: The table cannot be written.
    """
    while True:
        dataset = open_latest(uri, name)
        if dataset is None:
            raise CannotFinish(f"table {name} is gone")
        # Another process, or an earlier run that was killed afterwards, may have made the change already.
        done = _committed(dataset, change.intent)
        if done is not None:
            return done
        check_owner(dataset, name, change.owner, known={name})
        # A later epoch is committed: writing an older one over it would lose rows.
        if epoch_of(dataset) > change.epoch:
            # Later epochs are committed once this one is published, so that an epoch file was lost or is of a backup.
            raise CannotFinish(
                f"table {name} is already at epoch {epoch_of(dataset)}; epoch {change.epoch} is out of date"
            )
        missing = missing_files(change.added, data_sizes(uri, name))
        if missing:
            raise CannotFinish(f"staged file {missing[0]} of table {name} is missing")
        try:
            written = _overwrite(dataset, change) if _replaces(change) else _merge(dataset, change)
        except CommitConflictError:
            # Somebody committed after we opened the table. The next round finds our change, or makes it again.
            continue
        except (OSError, ValueError) as error:
            raise IndexerError(f"cannot commit to table {name}: {first_line(error)}") from None
        return int(written.version)


def holds(uri: str, name: str, version: int, intent: str) -> bool:
    """Whether only maintenance followed an intent's commit up to a version, so that the rows are the intent's."""
    return _committed(open_version(uri, name, version), intent) is not None


def data_sizes(uri: str, name: str) -> dict[str, int]:
    """Bytes of a table's data files by name, committed or not."""
    return PutOnceFolder(uri, f"{name}.lance/data", "index.uri").sizes()


def is_whole(uri: str, name: str, dataset: lance.LanceDataset) -> bool:
    """Whether every data file of an open version is there; a prune that was killed may have deleted some."""
    there = data_sizes(uri, name)
    return all(file.path in there for part in dataset.get_fragments() for file in part.metadata.files)


def missing_files(staged: Sequence[Mapping[str, Any]], there: Mapping[str, int]) -> list[str]:
    """Files of staged fragments that do not exist or are not whole.

    Args:
        staged: The fragments, as Lance describes them.
        there: Result of :func:`data_sizes` for their table.
    """
    files = [file for fragment in staged for file in fragment["files"]]
    return [file["path"] for file in files if not _is_intact(file, there)]


def _is_intact(file: Mapping[str, Any], there: Mapping[str, int]) -> bool:
    """Whether a fragment's file exists with the recorded size; without a recorded size any file counts."""
    return file["path"] in there and file["file_size_bytes"] in {None, there[file["path"]]}


def _committed(dataset: lance.LanceDataset, intent: str) -> int | None:
    """Version of the intent's commit, if only maintenance followed it."""
    # Newest first: the first version that changed rows decides. Numbers are no proof, since a restore adds versions.
    for version in range(int(dataset.version), 0, -1):
        try:
            transaction = dataset.read_transaction(version)
        except (OSError, ValueError):
            return None  # the version was cleaned up, so that nothing older can be told
        except TypeError as error:
            # pylance 14 cannot show this kind of compaction. It keeps the rows, so look before it.
            if UNSHOWN_REWRITE not in str(error):
                raise
            continue
        if transaction is None:
            return None
        operation = transaction.operation
        if isinstance(operation, KEEPS_ROWS) or type(operation) is LanceOperation.BaseOperation:
            continue
        return version if (transaction.transaction_properties or {}).get(MESSAGE) == _message(intent) else None
    return None


def _message(intent: str) -> str:
    """Message of the commit that makes an intent's change."""
    return f"intent {intent}"


def _replaces(change: Change) -> bool:
    """Whether the added fragments become the whole content."""
    return change.dropped is None or change.base == NOTHING


def _metadata(change: Change) -> dict[str, str]:
    """Schema metadata of the result: the change's own, the epoch, the intent and the owner."""
    entries = {METADATA_PREFIX + key: value for key, value in change.metadata.items()}
    marks = {EPOCH_KEY: str(change.epoch), INTENT_KEY: change.intent, OWNER_KEY: change.owner}
    return entries | {key.decode(): value for key, value in marks.items()}


def _fragment(described: dict[str, Any]) -> FragmentMetadata:
    """A staged fragment as Lance's own object."""
    return FragmentMetadata.from_json(json.dumps(described))


def _at_base(dataset: lance.LanceDataset, base: int) -> lance.LanceDataset:
    """The table with the content of the published version: rows that others wrote since are dropped."""
    if dataset.version == base:
        return dataset
    if base not in {version["version"] for version in dataset.versions()}:
        raise CannotFinish(f"version {base} of {dataset.uri.rsplit('/', 1)[-1]} is gone")
    return lance.LanceDataset.commit(dataset, LanceOperation.Restore(base), dataset.version, max_retries=0)


def _overwrite(dataset: lance.LanceDataset, change: Change) -> lance.LanceDataset:
    """Replaces the whole content; keeps the base's columns if the change brings none."""
    base = dataset if change.base == NOTHING else lance.dataset(dataset.uri, version=change.base)
    columns = base.schema if change.columns is None else change.columns
    target = columns.with_metadata(_metadata(change))
    operation = LanceOperation.Overwrite(target, [_fragment(described) for described in change.added])
    # Without retries Lance refuses to overwrite a version that it has not read: compare and swap here too.
    return lance.LanceDataset.commit(
        dataset, operation, dataset.version, max_retries=0, commit_message=_message(change.intent)
    )


def _merge(dataset: lance.LanceDataset, change: Change) -> lance.LanceDataset:
    """Deletes the dropped rows from the base and adds the staged fragments, in one commit."""
    # Rows that others wrote after the base would stay in the table and count as ours: go back first.
    dataset = _at_base(dataset, change.base)
    kept = [part for part in _kept(dataset, change.dropped) if part is not None]
    added = [_fragment(described) for described in change.added]
    # Staged fragments get new ids: rows under an id that an index covers would count as indexed.
    for fragment_id, fragment in enumerate(added, _free_id(dataset)):
        fragment.id = fragment_id
    emptied = {part.fragment_id for part in dataset.get_fragments()} - {part.id for part in kept}
    if emptied:
        # Emptied fragments go in a commit of their own: Lance refuses a Merge that leaves out an existing fragment.
        delete = LanceOperation.Delete([], sorted(emptied), "true")
        emptied_at = lance.LanceDataset.commit(dataset, delete, dataset.version, max_retries=0)
        if emptied_at.version != dataset.version + 1:
            # Lance puts a deletion on top of a column that somebody renames or drops in this moment.
            raise CommitConflictError(f"version {dataset.version + 1} is another process's")
        dataset = emptied_at
    target = dataset.schema.with_metadata(_metadata(change))
    merge = LanceOperation.Merge([*kept, *added], LanceSchema.from_pyarrow(target), preserves_nullability=False)
    return lance.LanceDataset.commit(dataset, merge, dataset.version, commit_message=_message(change.intent))


def _kept(dataset: lance.LanceDataset, dropped: pa.ChunkedArray | None) -> Iterator[FragmentMetadata | None]:
    """Every fragment without the dropped rows; ``None`` for a fragment that loses all its rows."""
    addresses = np.sort(_addresses(dataset, dropped)) if dropped else np.empty(0, np.uint64)
    for fragment in dataset.get_fragments():
        number = fragment.fragment_id
        begin, end = np.searchsorted(addresses, np.array([number, number + 1], np.uint64) << np.uint64(ADDRESS_BITS))
        found = addresses[begin:end] & np.uint64((1 << ADDRESS_BITS) - 1)
        # Only fragments with dropped rows are opened.
        yield fragment.delete_rows(found.tolist()) if found.size else fragment.metadata


def _addresses(dataset: lance.LanceDataset, ids: pa.ChunkedArray) -> np.ndarray:
    """Addresses of the rows with one of the ids, uint64: by the index of ids, or by all ids where many are dropped."""
    if LOOKED_UP * len(ids) > dataset.count_rows():
        whole = (
            part.scanner(columns=[schema.ID], with_row_address=True).to_table() for part in dataset.get_fragments()
        )
        found = [rows["_rowaddr"].filter(pc.is_in(rows[schema.ID], value_set=ids)) for rows in whole]
    else:
        portions = (ids.slice(start, LISTED).to_pylist() for start in range(0, len(ids), LISTED))
        rows = (part for some in portions for part in looked_up(dataset, some, [], with_row_address=True))
        found = [part["_rowaddr"] for part in rows]
    return np.concatenate([np.empty(0, np.uint64), *(part.to_numpy() for part in found)])


def _free_id(dataset: lance.LanceDataset) -> int:
    """First fragment id that no fragment has and no index covers; Lance would renumber a fragment with id 0."""
    segments = (segment for found in dataset.describe_indices() for segment in found.segments)
    covered = (fragment for segment in segments for fragment in segment.fragment_ids)
    return 1 + max([0, *(part.fragment_id for part in dataset.get_fragments()), *covered])
