"""Control files: digests, receipts, intents and epochs, each put once and never changed. The only door to obstore.

Everything lies under ``<index uri>/_<index name>/``. A put of a name that exists changes nothing and gives what is
there, so that any number of processes may do the same work and agree on the first result. Numbers in names are padded:
names sort by epoch.
"""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from pydantic import BaseModel, ConfigDict

from indexer.errors import IndexerError

DIGEST_GROUP_ROWS = 65_536
"""Rows per row group of a digest: sorted by id, so that a range of ids touches few of them."""


class Record(BaseModel):
    """A control file's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Receipt(Record):
    """One shard is staged for every table.

    Attributes:
        shard_id: The shard.
        fragments: For each table the uncommitted Lance fragments, as Lance describes them.
        documents: Documents indexed.
        chunks: Rows per width table.
        quarantined: Documents refused.
        truncated: Documents cut at the token limit.
        tokens: Tokens the engine read.
        seconds: Seconds per stage of the pipeline.
    """

    shard_id: str
    fragments: dict[str, list[dict[str, Any]]]
    documents: int
    chunks: int
    quarantined: int
    truncated: int
    tokens: int
    seconds: dict[str, float]


class Intent(Record):
    """What an epoch will be: complete, so that any process can finish it.

    Attributes:
        epoch: Its number.
        generation: Generation of the tables.
        bases: Published version of every table the epoch starts from.
        widths: Width of every width table by name, widest first.
        quarantine_table: Name of the quarantine table.
        vector_index: The setting: ``auto``, ``none`` or an index type.
        receipts: Shards whose fragments are added.
        quarantine: Fragments that, with those of the receipts, become the content of the quarantine table.
        removals: Files with ids whose rows are dropped.
        documents: Documents each width table must then hold.
        metadata: Schema metadata every table gets.
        description: What the epoch file says of the run: fingerprint, layout, corpus and counts.
    """

    epoch: int
    generation: int
    bases: dict[str, int]
    widths: dict[str, int]
    quarantine_table: str
    vector_index: str
    receipts: list[str]
    quarantine: list[dict[str, Any]]
    removals: list[str]
    documents: int
    metadata: dict[str, str]
    description: dict[str, Any]


class TableState(Record):
    """One published table.

    Attributes:
        name: Table name.
        width: Matryoshka width.
        version: Lance version readers check out.
        rows: Rows.
        bytes: Size of its data files.
        index: Type of the vector index, or why there is none.
    """

    name: str
    width: int
    version: int
    rows: int
    bytes: int
    index: str


class Epoch(Record):
    """A published state of the index.

    Attributes:
        number: Counts up from 1.
        generation: Generation of the tables.
        tables: The width tables, widest first.
        quarantine: Name and version of the quarantine table.
        description: As in the intent.
    """

    number: int
    generation: int
    tables: list[TableState]
    quarantine: tuple[str, int]
    description: dict[str, Any]

    def versions(self) -> dict[str, int]:
        """Version of every table by name."""
        return {table.name: table.version for table in self.tables} | dict([self.quarantine])


class ControlStore:
    """The control files of one index."""

    def __init__(self, uri: str, name: str) -> None:
        """Opens the store; nothing is created before the first put.

        Args:
            uri: Directory or object-store URI of the LanceDB database.
            name: Name of the index.

        Raises:
            IndexerError: The location cannot be opened.
        """
        self._root = f"_{name}"
        self._store = _open(uri)

    def receipt_ids(self, epoch: int) -> set[str]:
        """Shards that have a receipt for an epoch."""
        return {Path(path).stem for path in self._list(f"receipts/{epoch:012d}")}

    def receipt(self, epoch: int, shard_id: str) -> Receipt:
        """Receipt of a shard."""
        return Receipt.model_validate_json(self._get(_receipt_path(epoch, shard_id)))

    def put_receipt(self, epoch: int, receipt: Receipt) -> Receipt:
        """Records a staged shard.

        Returns:
            The receipt that counts: the first one put.
        """
        if self._put(_receipt_path(epoch, receipt.shard_id), receipt.model_dump_json().encode()):
            return receipt
        return self.receipt(epoch, receipt.shard_id)

    def put_intent(self, intent: Intent) -> Intent:
        """Records what an epoch will be; gives the intent that counts."""
        path = f"intents/{intent.epoch:012d}.json"
        if self._put(path, intent.model_dump_json().encode()):
            return intent
        return Intent.model_validate_json(self._get(path))

    def pending_intent(self) -> Intent | None:
        """The intent that has no epoch yet, left by a run that ended before it published."""
        intents, epochs = self._numbers("intents"), self._numbers("epochs")
        if not intents or (epochs and epochs[-1] >= intents[-1]):
            return None
        return Intent.model_validate_json(self._get(f"intents/{intents[-1]:012d}.json"))

    def put_epoch(self, epoch: Epoch) -> Epoch:
        """Publishes; gives the epoch that counts."""
        if self._put(f"epochs/{epoch.number:012d}.json", epoch.model_dump_json().encode()):
            return epoch
        return self.epoch(epoch.number)

    def epoch(self, number: int) -> Epoch:
        """A published epoch."""
        return Epoch.model_validate_json(self._get(f"epochs/{number:012d}.json"))

    def latest_epoch(self) -> Epoch | None:
        """The published state, or ``None`` before the first."""
        numbers = self._numbers("epochs")
        return self.epoch(numbers[-1]) if numbers else None

    def digest_names(self) -> set[str]:
        """Names of the file digests."""
        return {Path(path).stem for path in self._list("digests")}

    def put_digest(self, name: str, digest: pa.Table) -> None:
        """Records a file's digest.

        Args:
            name: Identity of the file and of the columns read.
            digest: Table of :data:`indexer.schema.DIGEST_SCHEMA`, sorted by id.
        """
        self._put(f"digests/{name}.parquet", _parquet(digest))

    def digest(self, name: str, columns: Sequence[str], low: str | None = None, high: str | None = None) -> pa.Table:
        """Reads a file's digest.

        Args:
            name: As put.
            columns: Columns to read.
            low: Least id wanted, ``None`` for no bound.
            high: Id above the last one wanted, ``None`` for no bound.

        Returns:
            The row groups that may hold such ids: a superset of the rows wanted.
        """
        parquet = self._digest_file(name)
        groups = [group for group in range(parquet.num_row_groups) if _overlaps(parquet, group, low, high)]
        return parquet.read_row_groups(groups, list(columns))

    def digest_groups(self, name: str) -> list[tuple[str | None, int]]:
        """Least id (``None`` where it is not known) and number of rows of every row group of a digest."""
        parquet = self._digest_file(name)
        at = parquet.schema_arrow.get_field_index("id")
        groups = [parquet.metadata.row_group(group) for group in range(parquet.num_row_groups)]
        return [(_least(group.column(at).statistics), group.num_rows) for group in groups]

    def put_removals(self, epoch: int, part: str, ids: pa.Array) -> str:
        """Records ids whose rows an epoch drops.

        Returns:
            Name of the file, for the intent.
        """
        name = f"removals/{epoch:012d}/{part}.parquet"
        self._put(name, _parquet(pa.table({"id": ids})))
        return name

    def removals(self, names: Sequence[str]) -> pa.ChunkedArray:
        """Ids of several removal files."""
        tables = [pq.read_table(io.BytesIO(self._get(name)))["id"] for name in names]
        return pa.chunked_array([chunk for table in tables for chunk in table.chunks], pa.string())

    def _digest_file(self, name: str) -> pq.ParquetFile:
        reader = obstore.open_reader(self._store, self._path(f"digests/{name}.parquet"))
        return pq.ParquetFile(_RandomAccess(reader))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, name: str, content: bytes) -> bool:
        """Puts a file if there is none; whether it did."""
        try:
            obstore.put(self._store, self._path(name), content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise IndexerError(f"cannot write control file {name}: {_first_line(error)}") from None
        return True

    def _get(self, name: str) -> bytes:
        try:
            return bytes(obstore.get(self._store, self._path(name)).bytes())
        except (BaseError, OSError) as error:
            raise IndexerError(f"cannot read control file {name}: {_first_line(error)}") from None

    def _list(self, folder: str) -> Iterator[str]:
        try:
            for batch in obstore.list(self._store, self._path(folder)):
                yield from (entry["path"] for entry in batch)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise IndexerError(f"cannot list control files in {folder}: {_first_line(error)}") from None

    def _numbers(self, folder: str) -> list[int]:
        return sorted(int(Path(path).stem) for path in self._list(folder))


class _RandomAccess(io.RawIOBase):
    """A stored file as the file object Arrow asks for; obstore's own reader lacks part of the protocol."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        content = bytes(self._reader.read(len(buffer)))
        buffer[: len(content)] = content
        return len(content)


def canonical(value: object) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _open(uri: str) -> ObjectStore:
    try:
        if "://" not in uri:
            return LocalStore(Path(uri).expanduser().absolute(), mkdir=True)
        if uri.startswith("file://"):
            return from_url(uri, mkdir=True)
        return from_url(uri)
    except (BaseError, OSError, ValueError) as error:
        raise IndexerError(f"index.uri: {_first_line(error)}") from None


def _receipt_path(epoch: int, shard_id: str) -> str:
    return f"receipts/{epoch:012d}/{shard_id}.json"


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=DIGEST_GROUP_ROWS)
    return buffer.getvalue()


def _overlaps(parquet: pq.ParquetFile, group: int, low: str | None, high: str | None) -> bool:
    """Whether a row group may hold an id of the range; groups without bounds, as those of null ids, always may."""
    statistics = parquet.metadata.row_group(group).column(parquet.schema_arrow.get_field_index("id")).statistics
    if statistics is None or not statistics.has_min_max or statistics.null_count:
        return True
    return (high is None or statistics.min < high) and (low is None or statistics.max >= low)


def _least(statistics: pq.Statistics | None) -> str | None:
    return statistics.min if statistics is not None and statistics.has_min_max else None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
