"""Control files: digests, receipts, intents and epochs, each put once and never changed.

Everything lies under ``<index uri>/_<index name>/``. Writing a name that exists returns the existing file. Numbers in
names are padded: names sort by epoch.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from indexer.storage.description import EngineRecord
from indexer.storage.digest_files import LISTS, DigestFiles
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.receipts import Receipts
from indexer.storage.records import Epoch, Intent, Receipt, canonical


class ControlStore:
    """The control files of one index.

    Attributes:
        digests: Digests of the corpus files.
    """

    def __init__(self, uri: str, name: str, scratch: str | None = None) -> None:
        """Opens the store; nothing is created before the first put.

        Args:
            uri: Directory or object-store URI of the LanceDB database.
            name: Name of the index.
            scratch: Directory with further digests, which belong to no index.

        Raises:
            IndexerError: The location cannot be opened.
        """
        self._files = PutOnceFolder(uri, f"_{name}", "index.uri")
        self.digests = DigestFiles(self._files, PutOnceFolder(scratch, f"_{name}", "scratch") if scratch else None)

    def receipts(self, epoch: int) -> Receipts[Receipt]:
        """Receipts of the shards staged for an epoch."""
        return Receipts(self._files, f"receipts/{epoch:012d}", Receipt)

    def put_engine(self, epoch: int, name: str, engine: EngineRecord) -> EngineRecord:
        """Records an engine of an epoch under construction; gives the one that counts, the first one put.

        Args:
            epoch: The epoch.
            name: What engines of the same computation share.
            engine: The engine.
        """
        path = f"engines/{epoch:012d}/{name}.json"
        if self._files.put(path, engine.to_json().encode()):
            return engine
        return EngineRecord.model_validate_json(self._files.get(path))

    def engine(self, epoch: int, name: str) -> EngineRecord | None:
        """The engine of :meth:`put_engine`, or ``None``."""
        if name not in self._files.stems(f"engines/{epoch:012d}"):
            return None
        return EngineRecord.model_validate_json(self._files.get(f"engines/{epoch:012d}/{name}.json"))

    def put_intent(self, intent: Intent) -> Intent:
        """Records what an epoch will be; gives the intent that counts."""
        path = f"intents/{intent.epoch:012d}.json"
        if self._files.put(path, intent.to_json().encode()):
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
        if self._files.put(f"epochs/{epoch.number:012d}.json", epoch.to_json().encode()):
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
            receipts = self.receipts(epoch)
            for shard_id in receipts.ids():
                for table, fragments in receipts.get(shard_id).fragments.items():
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
        for name in [*self._files.names("quarantine"), *self._files.names(LISTS)]:
            if int(name.split("/")[-1].split("-")[0]) in old:
                self._files.delete(name)
        for folder in ("removals", "receipts", "engines"):
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

    def _folders(self, folder: str, up_to: int) -> list[int]:
        """Epochs that have files in a folder."""
        numbers = {int(name.split("/")[-2]) for name in self._files.names(folder)}
        return sorted(number for number in numbers if number <= up_to)

    def _numbers(self, folder: str) -> list[int]:
        return sorted(int(stem) for stem in self._files.stems(folder))


def _paths(fragments: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (str(file["path"]) for fragment in fragments for file in fragment["files"])
