"""A folder of receipts: one file per finished shard. The first one put counts."""

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from indexer.storage.put_once import PutOnceFolder, Record


class ShardRecord(Record):
    """Fields that every receipt has.

    Attributes:
        shard_id: The shard that is finished.
    """

    shard_id: str


class Named(Protocol):
    """A piece of work with a name of its own."""

    @property
    def shard_id(self) -> str:
        """Digest of everything that makes its result."""
        ...


ReceiptT = TypeVar("ReceiptT", bound=ShardRecord)

PieceT = TypeVar("PieceT", bound=Named)


class Receipts(Generic[ReceiptT]):
    """The receipts of one epoch, or of one phase of a scoring run."""

    def __init__(self, files: PutOnceFolder, folder: str, kind: type[ReceiptT]) -> None:
        """Describes the folder; nothing is created before the first put.

        Args:
            files: Where the folder lies.
            folder: Path of the folder in it.
            kind: Class of the receipts.
        """
        self._files = files
        self._folder = folder
        self._kind = kind

    def ids(self) -> set[str]:
        """Shards that have a receipt."""
        return self._files.stems(self._folder)

    def get(self, shard_id: str) -> ReceiptT:
        """Receipt of a shard.

        Raises:
            IndexerError: There is none, or it cannot be read.
        """
        return self._kind.from_file(self._files, self._path(shard_id))

    def put(self, receipt: ReceiptT) -> ReceiptT:
        """Records a finished shard.

        Returns:
            The receipt that counts: the first one put.
        """
        if self._files.put(self._path(receipt.shard_id), receipt.to_json().encode()):
            return receipt
        return self.get(receipt.shard_id)

    def unfinished(
        self, pieces: Iterable[PieceT], known: Container[str], done: Callable[[ReceiptT], Any]
    ) -> Iterator[PieceT]:
        """Pieces of work that have no receipt.

        Args:
            pieces: The work.
            known: Shards that have one.
            done: Called with the receipt of every other piece.
        """
        for piece in pieces:
            if piece.shard_id in known:
                done(self.get(piece.shard_id))
            else:
                yield piece

    def forget(self, shard_id: str) -> None:
        """Deletes a receipt whose staged files are gone, so that the shard can be staged again."""
        self._files.delete(self._path(shard_id))

    def _path(self, shard_id: str) -> str:
        """Name of a shard's receipt."""
        return f"{self._folder}/{shard_id}.json"
