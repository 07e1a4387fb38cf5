"""Control files: digests, receipts, intents and epochs, each put once and never changed.

Everything lies under ``<index uri>/_<index name>/``. A put of a name that exists gives what is there. Numbers in names
are padded: names sort by epoch.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.storage.digest_files import _least, _overlaps
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.records import Epoch, Intent, Receipt, canonical


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
        self._files = PutOnceFolder(uri, f"_{name}", "index.uri")

    def receipt_ids(self, epoch: int) -> set[str]:
        """Shards that have a receipt for an epoch."""
        return self._files.stems(f"receipts/{epoch:012d}")

    def receipt(self, epoch: int, shard_id: str) -> Receipt:
        """Receipt of a shard."""
        return Receipt.model_validate_json(self._files.get(_receipt_path(epoch, shard_id)))

    def put_receipt(self, epoch: int, receipt: Receipt) -> Receipt:
        """Records a staged shard.

        Returns:
            The receipt that counts: the first one put.
        """
        if self._files.put(_receipt_path(epoch, receipt.shard_id), receipt.model_dump_json().encode()):
            return receipt
        return self.receipt(epoch, receipt.shard_id)

    def put_intent(self, intent: Intent) -> Intent:
        """Records what an epoch will be; gives the intent that counts."""
        path = f"intents/{intent.epoch:012d}.json"
        if self._files.put(path, intent.model_dump_json().encode()):
            return intent
        return Intent.model_validate_json(self._files.get(path))

    def pending_intent(self) -> Intent | None:
        """The intent that has no epoch yet, left by a run that ended before it published."""
        intents, epochs = self._numbers("intents"), self._numbers("epochs")
        if not intents or (epochs and epochs[-1] >= intents[-1]):
            return None
        return Intent.model_validate_json(self._files.get(f"intents/{intents[-1]:012d}.json"))

    def put_epoch(self, epoch: Epoch) -> Epoch:
        """Publishes; gives the epoch that counts."""
        if self._files.put(f"epochs/{epoch.number:012d}.json", epoch.model_dump_json().encode()):
            return epoch
        return self.epoch(epoch.number)

    def epoch(self, number: int) -> Epoch:
        """A published epoch."""
        return Epoch.model_validate_json(self._files.get(f"epochs/{number:012d}.json"))

    def epoch_numbers(self) -> list[int]:
        """Numbers of the published epochs, ascending."""
        return self._numbers("epochs")

    def latest_epoch(self) -> Epoch | None:
        """The published state, or ``None`` before the first."""
        numbers = self._numbers("epochs")
        return self.epoch(numbers[-1]) if numbers else None

    def closed_intents(self, up_to: int) -> Iterator[Intent]:
        """Intents of epochs that are published or were given up.

        Args:
            up_to: The latest published epoch.
        """
        for number in self._numbers("intents"):
            if number <= up_to:
                yield Intent.model_validate_json(self._files.get(f"intents/{number:012d}.json"))

    def next_generation(self) -> int:
        """One above all generations there are tables of; also of a rebuild that a rollback gave up."""
        numbers = self.epoch_numbers()
        known = [self.epoch(number).generation for number in numbers]
        known += [intent.generation for intent in self.closed_intents(max(numbers, default=0))]
        return 1 + max(known, default=0)

    def staged_files(self, up_to: int) -> dict[str, set[str]]:
        """Data files that receipts and intents of closed epochs name, by table.

        Args:
            up_to: The latest published epoch.
        """
        found: dict[str, set[str]] = {}
        for epoch in self._folders("receipts", up_to):
            for shard_id in self.receipt_ids(epoch):
                for table, fragments in self.receipt(epoch, shard_id).fragments.items():
                    found.setdefault(table, set()).update(_paths(fragments))
        for intent in self.closed_intents(up_to):
            found.setdefault(intent.quarantine_table, set()).update(_paths(intent.quarantine))
        return found

    def forget(self, old: Sequence[int], closed: int) -> None:
        """Deletes epoch files, and what made the closed epochs: removals, receipts and, last, intents.

        Args:
            old: Epochs to forget.
            closed: The latest published epoch.
        """
        for epoch in old:
            self._files.delete(f"epochs/{epoch:012d}.json")
        for name in list(self._files.names("quarantine")):
            if int(name.split("/")[-1].split("-")[0]) in old:
                self._files.delete(name)
        for folder in ("removals", "receipts"):
            for epoch in self._folders(folder, closed):
                for name in list(self._files.names(f"{folder}/{epoch:012d}")):
                    self._files.delete(name)
        for epoch in (number for number in self._numbers("intents") if number <= closed):
            self._files.delete(f"intents/{epoch:012d}.json")

    def put_quarantine(self, epoch: int, version: int, rows: pa.Table) -> None:
        """Records an epoch's quarantine as Parquet, for those who do not read Lance.

        Args:
            epoch: The epoch.
            version: Version of its quarantine table: a run that was given up may have left another file.
            rows: :data:`indexer.schema.QUARANTINE_SCHEMA`.
        """
        self._files.put_table(f"quarantine/{epoch:012d}-{version}.parquet", rows)

    def quarantine(self, epoch: Epoch) -> pa.Table:
        """The file of :meth:`put_quarantine` for an epoch."""
        return self._files.get_table(f"quarantine/{epoch.number:012d}-{epoch.quarantine[1]}.parquet")

    def digest_names(self) -> set[str]:
        """Names of the file digests."""
        return self._files.stems("digests")

    def put_digest(self, name: str, digest: pa.Table) -> None:
        """Records a file's digest.

        Args:
            name: Identity of the file and of the columns read.
            digest: Table of :data:`indexer.schema.DIGEST_SCHEMA`, sorted by id.
        """
        self._files.put_table(f"digests/{name}.parquet", digest)

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

    def put_removals(self, epoch: int, ids: pa.Array) -> str:
        """Records ids whose rows an epoch drops.

        Returns:
            Name of the file, for the intent: after its content, since a run that was given up may have left another.
        """
        digest = hashlib.blake2b(canonical(ids.to_pylist()).encode(), digest_size=16).hexdigest()
        name = f"removals/{epoch:012d}/{digest}.parquet"
        self._files.put_table(name, pa.table({"id": ids}))
        return name

    def removals(self, names: Sequence[str]) -> pa.ChunkedArray:
        """Ids of several removal files."""
        tables = [self._files.get_table(name)["id"] for name in names]
        return pa.chunked_array([chunk for table in tables for chunk in table.chunks], pa.string())

    def _digest_file(self, name: str) -> pq.ParquetFile:
        return self._files.parquet(f"digests/{name}.parquet")

    def _folders(self, folder: str, up_to: int) -> list[int]:
        """Epochs that have files in a folder."""
        numbers = {int(name.split("/")[-2]) for name in self._files.names(folder)}
        return sorted(number for number in numbers if number <= up_to)

    def _numbers(self, folder: str) -> list[int]:
        return sorted(int(stem) for stem in self._files.stems(folder))


def _receipt_path(epoch: int, shard_id: str) -> str:
    return f"receipts/{epoch:012d}/{shard_id}.json"


def _paths(fragments: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (str(file["path"]) for fragment in fragments for file in fragment["files"])
