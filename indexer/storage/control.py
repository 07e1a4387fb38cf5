"""Control files: digests, receipts, intents and epochs, each put once and never changed.

Everything lies under ``<index uri>/_<index name>/``. Writing a name that exists returns the existing file. Numbers in
names are padded, so that names sort by epoch.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from indexer.errors import DamagedFile
from indexer.progress import say
from indexer.storage.digest_files import COPIES, LISTS, DigestFiles
from indexer.storage.epoch_work import EpochWork, epoch_number, intent_path
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.records import Epoch, Intent


class ControlStore(EpochWork):
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
        super().__init__(PutOnceFolder(uri, f"_{name}", "index.uri"))
        self.digests = DigestFiles(self._files, PutOnceFolder(scratch, f"_{name}", "scratch") if scratch else None)

    def pending_intent(self) -> Intent | None:
        """The intent that has no epoch yet, left by a run that ended before it published."""
        intents, epochs = self._numbers("intents"), self._numbers("epochs")
        if not intents or (epochs and epochs[-1] >= intents[-1]):
            return None
        try:
            return Intent.from_file(self._files, intent_path(intents[-1]))
        except DamagedFile as error:
            say(f"{error}: what it began is begun again", "WARNING")
            self.give_up(intents[-1])
            return None

    def is_closed(self, epoch: int) -> bool:
        """Whether this epoch or a later one is published."""
        return max(self.epoch_numbers(), default=0) >= epoch

    def put_epoch(self, epoch: Epoch) -> Epoch:
        """Publishes an epoch; returns the one that counts, which another process may have put first."""
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
        """Numbers of the published epochs, ascending; damaged files count too."""
        return self._numbers("epochs")

    def next_number(self) -> int:
        """Number of the next epoch."""
        return 1 + max(self.epoch_numbers(), default=0)

    def epochs(self, most: int | None = None) -> list[Epoch]:
        """The published epochs, ascending; damaged ones are skipped with a progress line.

        Args:
            most: Cap on the epochs that are read, the latest ones; all by default.
        """
        numbers = self.epoch_numbers()
        return list(self._readable(numbers if most is None else numbers[-most:]))

    def newest_first(self) -> Iterator[Epoch]:
        """Reads the published epochs one by one, the latest first; damaged ones are skipped with a progress line."""
        return self._readable(self.epoch_numbers()[::-1])

    def latest_epoch(self) -> Epoch | None:
        """The published state, or ``None`` before the first epoch; damaged files are skipped for earlier ones."""
        return next(self.newest_first(), None)

    def resume(self, epoch: int) -> None:
        """Ends the hold of a rollback."""
        self._files.put(f"resumed/{epoch:012d}.json", b"{}")

    def is_held(self, epoch: Epoch) -> bool:
        """Whether a rollback holds the index at this epoch, so that runs are refused."""
        return epoch.description.hold and f"{epoch.number:012d}" not in self._files.stems("resumed")

    def next_generation(self) -> int:
        """One above all generations that have tables; a rebuild that a rollback gave up counts too."""
        known = [epoch.generation for epoch in self.epochs()]
        known += [intent.generation for intent in self.closed_intents(max(self.epoch_numbers(), default=0))]
        return 1 + max(known, default=0)

    def forget_epochs(self, numbers: Sequence[int]) -> None:
        """Deletes epoch files, so that nobody opens these epochs any more."""
        for number in numbers:
            self._files.delete(_epoch_path(number))
            self._files.delete(f"resumed/{number:012d}.json")

    def forget_work(self, kept: Sequence[Epoch], closed: int) -> None:
        """Deletes the files that made the closed epochs. Intents go last, so that a killed call can be repeated.

        Args:
            kept: Epochs whose quarantine files, lists of digests and digests stay.
            closed: The latest published epoch.
        """
        staying = {f"{epoch.number:012d}-{epoch.quarantine[1]}" for epoch in kept}
        lists = (name for epoch in kept for name in (epoch.description.files, epoch.description.copies))
        staying |= {Path(name).stem for name in lists if name is not None}
        for folder in ("quarantine", LISTS, COPIES):
            for stem in self._files.stems(folder) - staying:
                number = epoch_number(stem.split("-")[0])
                if number is not None and number <= closed:
                    self._files.delete(f"{folder}/{stem}.parquet")
        self._forget_digests(kept)
        for folder in ("removals", "receipts", "engines"):
            for epoch in (number for number in self._folders(folder) if number <= closed):
                for name in list(self._files.names(f"{folder}/{epoch:012d}")):
                    self._files.delete(name)
        for epoch in (number for number in self._numbers("intents") if number <= closed):
            self._files.delete(intent_path(epoch))

    def _forget_digests(self, kept: Sequence[Epoch]) -> None:
        """Deletes digests that no kept epoch uses and that are older than the latest epoch."""
        if not kept or any(epoch.description.files is None for epoch in kept):
            return  # an epoch from before epochs listed their files: its digests are not known
        needed = {name for epoch in kept for name in self.digests.get_list(str(epoch.description.files)).values()}
        published = self._files.times("epochs").get(f"{kept[-1].number:012d}", 0.0)
        # A younger digest may belong to a run under way.
        self.digests.forget(lambda name, time: name not in needed and time < published)

    def put_quarantine(self, epoch: int, version: int, rows: pa.Table) -> None:
        """Records an epoch's quarantine as Parquet, for readers without Lance.

        Args:
            epoch: The epoch.
            version: Version of its quarantine table, which tells it from the file of a run that was given up.
            rows: :data:`indexer.schema.QUARANTINE_SCHEMA`.
        """
        self._files.put_table(f"quarantine/{epoch:012d}-{version}.parquet", rows)

    def quarantine(self, epoch: Epoch, columns: Sequence[str] | None = None) -> pa.Table:
        """The file of :meth:`put_quarantine` for an epoch, or some of its columns."""
        return self._files.parquet(f"quarantine/{epoch.number:012d}-{epoch.quarantine[1]}.parquet").read(columns)

    def _readable(self, numbers: Iterable[int]) -> Iterator[Epoch]:
        """Epochs of these numbers; a damaged file is reported and skipped."""
        for number in numbers:
            try:
                yield self.epoch(number)
            except DamagedFile as error:
                say(f"{error}: epoch {number} is passed over", "WARNING")


def _epoch_path(epoch: int) -> str:
    """Name of an epoch's file."""
    return f"epochs/{epoch:012d}.json"
