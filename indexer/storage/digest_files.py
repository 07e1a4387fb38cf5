"""Digest files: one Parquet file per corpus file, read by range of ids."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexer.storage.put_once import PutOnceFolder
from indexer.storage.records import canonical

FOLDER = "digests"

LISTS = "files"
"""Folder of the lists that say which digest every corpus file had in an epoch."""


COPIES = "copies"
"""Folder of the lists of ids that stand in several rows of an epoch's corpus."""


class DigestFiles:
    """The digests of corpus files."""

    def __init__(self, files: PutOnceFolder, scratch: PutOnceFolder | None = None) -> None:
        """Wraps the control folder of an index.

        Args:
            files: The folder.
            scratch: Another folder with further digests, which are only read.
        """
        self._files = files
        self._scratch = scratch
        self._further: set[str] | None = None

    def names(self) -> set[str]:
        """Names of the digests."""
        further = self._scratch.stems(FOLDER) if self._scratch else set()
        return self._files.stems(FOLDER) | further

    def put(self, name: str, digest: pa.Table) -> None:
        """Records a file's digest.

        Args:
            name: Identity of the file and of the columns read.
            digest: Table of :data:`indexer.schema.DIGEST_SCHEMA`, sorted by id.
        """
        self._files.put_table(_path(name), digest)

    def read(self, name: str, columns: Sequence[str], low: str | None = None, high: str | None = None) -> pa.Table:
        """Reads a file's digest.

        Args:
            name: As put.
            columns: Columns to read.
            low: Least id wanted, ``None`` for no bound.
            high: Id above the last one wanted, ``None`` for no bound.

        Returns:
            The row groups that may hold such ids: a superset of the rows wanted.
        """
        parquet = self._parquet(name)
        groups = [group for group in range(parquet.num_row_groups) if _overlaps(parquet, group, low, high)]
        return parquet.read_row_groups(groups, list(columns))

    def find(self, name: str, ids: pa.Array) -> pa.Table:
        """Rows of some ids in a file's digest; only the row groups that may hold one of them are read.

        Args:
            name: As put.
            ids: The ids, ascending, without nulls.

        Returns:
            The rows, all columns.
        """
        parquet = self._parquet(name)
        nothing = parquet.schema_arrow.empty_table()
        if not len(ids):
            return nothing
        wanted = ids.to_pylist()
        groups = [group for group in range(parquet.num_row_groups) if _holds(parquet, group, wanted)]
        found = [nothing]
        for group in groups:
            # Most groups hold none of the ids after all: the other columns are read only where one does.
            there = pc.is_in(parquet.read_row_group(group, ["id"])["id"], value_set=ids)
            if pc.any(there).as_py():
                found.append(parquet.read_row_group(group).filter(there))
        return pa.concat_tables(found)

    def groups(self, name: str) -> list[tuple[str | None, int]]:
        """Least id (``None`` where it is not known) and number of rows of every row group of a digest."""
        parquet = self._parquet(name)
        at = parquet.schema_arrow.get_field_index("id")
        groups = [parquet.metadata.row_group(group) for group in range(parquet.num_row_groups)]
        return [(_least(group.column(at).statistics), group.num_rows) for group in groups]

    def sample(self, name: str, groups: Sequence[int], step: int) -> pa.Table:
        """Ids from some row groups of a digest.

        Args:
            name: As put.
            groups: Numbers of the row groups.
            step: Rows of a row group for each id.

        Returns:
            Columns id, without nulls, and rows, float64: the rows of its group that the id stands for.
        """
        parquet = self._parquet(name)
        found = [_SAMPLE_SCHEMA.empty_table()]
        for group in groups:
            held = parquet.read_row_group(group, ["id"])["id"].drop_null()
            some = held.take(pa.array(np.arange(min(step, len(held)) // 2, len(held), step)))
            rows = pa.repeat(len(held) / max(len(some), 1), len(some))
            found.append(pa.table([some, rows], _SAMPLE_SCHEMA))
        return pa.concat_tables(found)

    def forget(self, chosen: Callable[[str, float], bool]) -> None:
        """Deletes digests.

        Args:
            chosen: Whether to delete one, by its name and the seconds since 1970 at which it was put.
        """
        for name, time in self._files.times(FOLDER).items():
            if chosen(name, time):
                self._files.delete(_path(name))

    def _parquet(self, name: str) -> pq.ParquetFile:
        """Opens a digest, in the scratch folder if it lies there; that folder is listed once."""
        if self._scratch and self._further is None:
            self._further = self._scratch.stems(FOLDER)
        is_further = self._further is not None and name in self._further
        return (self._scratch if self._scratch and is_further else self._files).parquet(_path(name))

    def put_list(self, epoch: int, names: Mapping[str, str]) -> str:
        """Records the digests that an epoch is made of.

        Args:
            epoch: Its number.
            names: Name of the digest of every corpus file by the file's path.

        Returns:
            Name of the list, made from its content: a run that was given up may have left another list.
        """
        digest = hashlib.blake2b(canonical(names).encode(), digest_size=8).hexdigest()
        name = f"{LISTS}/{epoch:012d}-{digest}.parquet"
        self._files.put_table(name, pa.table({"path": list(names), "digest": list(names.values())}, _LIST_SCHEMA))
        return name

    def get_list(self, name: str) -> dict[str, str]:
        """Name of the digest of every corpus file by the file's path, as :meth:`put_list` recorded them."""
        table = self._files.get_table(name)
        return dict(zip(table["path"].to_pylist(), table["digest"].to_pylist(), strict=True))

    def put_copies(self, epoch: int, copies: pa.Table) -> str:
        """Records the ids of an epoch's corpus that have further rows.

        Args:
            epoch: Its number.
            copies: Column id, sorted, and column further, int64: how many rows.

        Returns:
            Name of the list, made from its content.
        """
        columns = [copies[name].to_pylist() for name in _COPIES_SCHEMA.names]
        digest = hashlib.blake2b(canonical(columns).encode(), digest_size=8).hexdigest()
        name = f"{COPIES}/{epoch:012d}-{digest}.parquet"
        self._files.put_table(name, copies.cast(_COPIES_SCHEMA))
        return name

    def get_copies(self, name: str) -> pa.Table:
        """The list as :meth:`put_copies` recorded it."""
        return self._files.get_table(name)


_SAMPLE_SCHEMA = pa.schema([("id", pa.string()), ("rows", pa.float64())])

_LIST_SCHEMA = pa.schema([("path", pa.string()), ("digest", pa.string())])

_COPIES_SCHEMA = pa.schema([("id", pa.string()), ("further", pa.int64())])


def _path(name: str) -> str:
    """Name of a digest's file."""
    return f"{FOLDER}/{name}.parquet"


def _overlaps(parquet: pq.ParquetFile, group: int, low: str | None, high: str | None) -> bool:
    """Whether a row group may hold an id of the range. A group without bounds, such as one with null ids, may."""
    statistics = parquet.metadata.row_group(group).column(parquet.schema_arrow.get_field_index("id")).statistics
    if statistics is None or not statistics.has_min_max or statistics.null_count:
        return True
    return (high is None or statistics.min < high) and (low is None or statistics.max >= low)


def _holds(parquet: pq.ParquetFile, group: int, ids: Sequence[str]) -> bool:
    """Whether a row group may hold one of the ids, which are ascending."""
    statistics = parquet.metadata.row_group(group).column(parquet.schema_arrow.get_field_index("id")).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    at = bisect_left(ids, statistics.min)
    return at < len(ids) and ids[at] <= statistics.max


def _least(statistics: pq.Statistics | None) -> str | None:
    """Least id of a row group, ``None`` without bounds."""
    return statistics.min if statistics is not None and statistics.has_min_max else None
