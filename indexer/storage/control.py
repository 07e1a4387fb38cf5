"""Control files: digests, receipts, intents and epochs, each put once and never changed.

Everything lies under ``<index uri>/_<index name>/``. Writing a name that exists returns the existing file. Numbers in
names are padded: names sort by epoch.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from indexer.errors import DamagedFile
from indexer.progress import say
from indexer.storage.description import EngineRecord
from indexer.storage.digest_files import LISTS, DigestFiles
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.receipts import Receipts
from indexer.storage.records import Epoch, Intent, Receipt, canonical


class ControlStore:
    """The control files of one index.

    Attributes:
        name: Name of the index.
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
        self.name = name
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
        return EngineRecord.from_file(self._files, path)

    def engine(self, epoch: int, name: str) -> EngineRecord | None:
        """The engine of :meth:`put_engine`, or ``None``."""
        if name not in self._files.stems(f"engines/{epoch:012d}"):
            return None
        return EngineRecord.from_file(self._files, f"engines/{epoch:012d}/{name}.json")

    def put_intent(self, intent: Intent) -> Intent:
        """Records what an epoch will be; gives the intent that counts."""
        path = _intent_path(intent.epoch)
        if self._files.put(path, intent.to_json().encode()):
            return intent
        try:
            return Intent.from_file(self._files, path)
        except DamagedFile:
            self.give_up(intent.epoch)
            return self.put_intent(intent)

    def pending_intent(self) -> Intent | None:
        """The intent that has no epoch yet, left by a run that ended before it published."""
        intents, epochs = self._numbers("intents"), self._numbers("epochs")
        if not intents or (epochs and epochs[-1] >= intents[-1]):
            return None
        try:
            return Intent.from_file(self._files, _intent_path(intents[-1]))
        except DamagedFile as error:
            say(f"{error}: what it began is begun again")
            self.give_up(intents[-1])
            return None

    def give_up(self, epoch: int) -> None:
        """Deletes an intent that can no longer be finished, so that another one can take its epoch."""
        self._files.delete(_intent_path(epoch))

    def is_closed(self, epoch: int) -> bool:
        """Whether an epoch of that number or a later one is published."""
        return max(self.epoch_numbers(), default=0) >= epoch

    def put_epoch(self, epoch: Epoch) -> Epoch:
        """Publishes; gives the epoch that counts."""
        if self._files.put(_epoch_path(epoch.number), epoch.to_json().encode()):
            return epoch
        return self.epoch(epoch.number)

    def epoch(self, number: int) -> Epoch:
        """A published epoch.

        Raises:
            IndexerError: There is none, or its file cannot be read.
        """
        return Epoch.from_file(self._files, _epoch_path(number))

    def epoch_numbers(self) -> list[int]:
        """Numbers of the published epochs, ascending, of those whose files are damaged too."""
        return self._numbers("epochs")

    def next_number(self) -> int:
        """Number of the next epoch."""
        return 1 + max(self.epoch_numbers(), default=0)

    def epochs(self) -> list[Epoch]:
        """The published epochs, ascending; of those whose files are damaged only the names are said."""
        return list(self._readable(self.epoch_numbers()))

    def latest_epoch(self) -> Epoch | None:
        """The published state, or ``None`` before the first; the epoch before where a file is damaged."""
        return next(self._readable(self.epoch_numbers()[::-1]), None)

    def resume(self, epoch: int) -> None:
        """Ends the hold of a rollback."""
        self._files.put(f"resumed/{epoch:012d}.json", b"{}")

    def is_held(self, epoch: Epoch) -> bool:
        """Whether runs are to leave the index at this epoch."""
        return epoch.description.hold and f"{epoch.number:012d}" not in self._files.stems("resumed")

    def closed_intents(self, up_to: int) -> Iterator[Intent]:
        """Intents of epochs that are published or were given up.

        Args:
            up_to: The latest published epoch.
        """
        for number in self._numbers("intents"):
            if number <= up_to:
                with suppress(DamagedFile):
                    yield Intent.from_file(self._files, _intent_path(number))

    def next_generation(self) -> int:
        """One above all generations there are tables of; also of a rebuild that a rollback gave up."""
        known = [epoch.generation for epoch in self.epochs()]
        known += [intent.generation for intent in self.closed_intents(max(self.epoch_numbers(), default=0))]
        return 1 + max(known, default=0)

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
        found: dict[str, set[str]] = {}
        for epoch in filter(epochs, self._folders("receipts")):
            receipts = self.receipts(epoch)
            for shard_id in receipts.ids():
                with suppress(DamagedFile):
                    for table, fragments in receipts.get(shard_id).fragments.items():
                        found.setdefault(table, set()).update(_paths(fragments))
        for number in filter(epochs, self._numbers("intents")):
            with suppress(DamagedFile):
                intent = Intent.from_file(self._files, _intent_path(number))
                found.setdefault(intent.quarantine_table, set()).update(_paths(intent.quarantine))
        return found

    def forget_epochs(self, numbers: Sequence[int]) -> None:
        """Deletes epoch files: from now on nobody opens these epochs."""
        for number in numbers:
            self._files.delete(_epoch_path(number))
            self._files.delete(f"resumed/{number:012d}.json")

    def forget_work(self, kept: Sequence[Epoch], closed: int) -> None:
        """Deletes what made the closed epochs: removals, receipts and, last, intents; quarantine files and digests.

        Args:
            kept: Epochs whose quarantine files, lists of digests and digests stay.
            closed: The latest published epoch.
        """
        staying = {f"{epoch.number:012d}-{epoch.quarantine[1]}" for epoch in kept}
        staying |= {Path(epoch.description.files).stem for epoch in kept if epoch.description.files}
        for folder in ("quarantine", LISTS):
            for stem in self._files.stems(folder) - staying:
                number = _number(stem.split("-")[0])
                if number is not None and number <= closed:
                    self._files.delete(f"{folder}/{stem}.parquet")
        self._forget_digests(kept)
        for folder in ("removals", "receipts", "engines"):
            for epoch in (number for number in self._folders(folder) if number <= closed):
                for name in list(self._files.names(f"{folder}/{epoch:012d}")):
                    self._files.delete(name)
        for epoch in (number for number in self._numbers("intents") if number <= closed):
            self._files.delete(_intent_path(epoch))

    def _forget_digests(self, kept: Sequence[Epoch]) -> None:
        """Deletes the digests of files that no epoch was made of, and that are older than the latest epoch."""
        if not kept or any(epoch.description.files is None for epoch in kept):
            return  # made before epochs listed their files
        needed = {name for epoch in kept for name in self.digests.get_list(str(epoch.description.files)).values()}
        published = self._files.times("epochs").get(f"{kept[-1].number:012d}", 0.0)
        # Younger ones may be those of a run that is under way.
        self.digests.forget(lambda name, time: name not in needed and time < published)

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

    def _readable(self, numbers: Iterable[int]) -> Iterator[Epoch]:
        for number in numbers:
            try:
                yield self.epoch(number)
            except DamagedFile as error:
                say(f"{error}: epoch {number} is passed over")

    def _folders(self, folder: str) -> list[int]:
        """Epochs that have files in a folder."""
        parents = {_number(name.split("/")[-2]) for name in self._files.names(folder)}
        return sorted(number for number in parents if number is not None)

    def _numbers(self, folder: str) -> list[int]:
        return sorted(number for number in map(_number, self._files.stems(folder)) if number is not None)


def _number(text: str) -> int | None:
    """The number of an epoch as names of files have it; ``None`` for what others call their files."""
    return int(text) if re.fullmatch(r"\d{12}", text) else None


def _intent_path(epoch: int) -> str:
    return f"intents/{epoch:012d}.json"


def _epoch_path(epoch: int) -> str:
    return f"epochs/{epoch:012d}.json"


def _paths(fragments: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (str(file["path"]) for fragment in fragments for file in fragment["files"])
