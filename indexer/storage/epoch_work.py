"""Files that epochs are made from: receipts, engines, intents and removals, each put once and never changed."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from indexer.errors import DamagedFile
from indexer.storage.description import EngineRecord
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.receipts import Receipts
from indexer.storage.records import Intent, Receipt, canonical


class EpochWork:
    """The files of an index from which epochs are made."""

    def __init__(self, files: PutOnceFolder) -> None:
        """Takes the folder of the index's control files."""
        self._files = files

    def receipts(self, epoch: int) -> Receipts[Receipt]:
        """Receipts of the shards staged for an epoch."""
        return Receipts(self._files, f"receipts/{epoch:012d}", Receipt)

    def put_engine(self, epoch: int, name: str, engine: EngineRecord) -> EngineRecord:
        """Records an engine of an epoch under construction; returns the first one put, which counts.

        Args:
            epoch: The epoch.
            name: What engines of the same computation share.
            engine: The engine.
        """
        path = f"engines/{epoch:012d}/{name}.json"
        if self._files.put(path, engine.to_json().encode()):
            return engine
        return EngineRecord.from_file(self._files, path)

    def engine(self, epoch: int, name: str) -> EngineRecord | None:
        """The engine of :meth:`put_engine`, or ``None``."""
        if name not in self._files.stems(f"engines/{epoch:012d}"):
            return None
        return EngineRecord.from_file(self._files, f"engines/{epoch:012d}/{name}.json")

    def put_intent(self, intent: Intent) -> Intent:
        """Records an epoch's intent; returns the one that counts, which another process may have put first."""
        path = intent_path(intent.epoch)
        if self._files.put(path, intent.to_json().encode()):
            return intent
        try:
            return Intent.from_file(self._files, path)
        except DamagedFile:
            self.give_up(intent.epoch)
            return self.put_intent(intent)

    def give_up(self, epoch: int) -> None:
        """Deletes an intent that can no longer be finished, so that another one can take its epoch."""
        self._files.delete(intent_path(epoch))

    def closed_intents(self, up_to: int) -> Iterator[Intent]:
        """Intents of epochs that are published or were given up.

        Args:
            up_to: The latest published epoch.
        """
        for number in self._numbers("intents"):
            if number <= up_to:
                with suppress(DamagedFile):
                    yield Intent.from_file(self._files, intent_path(number))

    def staged_files(self, up_to: int) -> dict[str, set[str]]:
        """Data files that receipts and intents of closed epochs name, by table.

        Args:
            up_to: The latest published epoch.
        """
        return self._staged(lambda epoch: epoch <= up_to)

    def begun_files(self, after: int) -> dict[str, set[str]]:
        """Data files that receipts and intents of epochs under way name, by table.

        Args:
            after: The latest published epoch.
        """
        return self._staged(lambda epoch: epoch > after)

    def _staged(self, epochs: Callable[[int], bool]) -> dict[str, set[str]]:
        """Data files by table that receipts and intents of the chosen epochs name; damaged files are skipped."""
        found: dict[str, set[str]] = {}
        for epoch in filter(epochs, self._folders("receipts")):
            receipts = self.receipts(epoch)
            for shard_id in receipts.ids():
                with suppress(DamagedFile):
                    for table, fragments in receipts.get(shard_id).fragments.items():
                        found.setdefault(table, set()).update(_paths(fragments))
        for number in filter(epochs, self._numbers("intents")):
            with suppress(DamagedFile):
                intent = Intent.from_file(self._files, intent_path(number))
                found.setdefault(intent.quarantine_table, set()).update(_paths(intent.quarantine))
        return found

    def put_removals(self, epoch: int, ids: pa.Array) -> str:
        """Records ids whose rows an epoch drops.

        Returns:
            Name of the file, made from its content: a run that was given up may have left another file.
        """
        digest = hashlib.blake2b(canonical(ids.to_pylist()).encode(), digest_size=16).hexdigest()
        name = f"removals/{epoch:012d}/{digest}.parquet"
        self._files.put_table(name, pa.table({"id": ids}))
        return name

    def removals(self, names: Sequence[str]) -> pa.ChunkedArray:
        """Ids of several removal files."""
        tables = [self._files.get_table(name)["id"] for name in names]
        return pa.chunked_array([chunk for table in tables for chunk in table.chunks], pa.string())

    def _folders(self, folder: str) -> list[int]:
        """Epochs that have files in a folder."""
        parents = {epoch_number(name.split("/")[-2]) for name in self._files.names(folder)}
        return sorted(number for number in parents if number is not None)

    def _numbers(self, folder: str) -> list[int]:
        """Epochs that have a file in a folder, ascending."""
        return sorted(number for number in map(epoch_number, self._files.stems(folder)) if number is not None)


def epoch_number(text: str) -> int | None:
    """The epoch number in a file's name; ``None`` for a name that is not ours."""
    return int(text) if re.fullmatch(r"\d{12}", text) else None


def intent_path(epoch: int) -> str:
    """Name of an intent's file."""
    return f"intents/{epoch:012d}.json"


def _paths(fragments: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Names of the fragments' data files."""
    return (str(file["path"]) for fragment in fragments for file in fragment["files"])
