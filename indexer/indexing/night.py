"""What the steps of staging share."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa

from indexer.cluster.connection import Cluster
from indexer.corpus.shards import Shard
from indexer.indexing import worklist
from indexer.indexing.changes import Changes
from indexer.indexing.job import Job, Target
from indexer.indexing.journal import Journal
from indexer.indexing.scan import Unread
from indexer.indexing.staged import Staged
from indexer.storage.receipts import PieceT, Receipts
from indexer.storage.records import Receipt


@dataclass(frozen=True)
class Night:
    """A run between its comparison and its intent.

    Attributes:
        job: The run's inputs.
        cluster: Where tasks and workers run.
        found: The comparison.
        unread: Unreadable files by the name of their digest.
        target: Where rows go.
        staged: What is staged so far.
        watch: Adds the seconds of every step.
        known: Pieces of work that had a receipt when staging began. Another run may stage more of them meanwhile.
    """

    job: Job
    cluster: Cluster
    found: Changes
    unread: Mapping[str, Unread]
    target: Target
    staged: Staged
    watch: Journal
    known: frozenset[str]

    def shards(self, work: worklist.WorkKind, left: pa.Table | None = None) -> Iterator[Shard]:
        """Shards of a kind of work, as :func:`indexer.indexing.worklist.shards` cuts them."""
        return worklist.shards(self.job, self.found, work, left)

    def unstaged(self, pieces: Iterable[PieceT], done: Callable[[Receipt], Any] | None = None) -> Iterator[PieceT]:
        """Pieces of work that have no receipt.

        Args:
            pieces: The work.
            done: Called with the receipt of every other piece; by default it is counted as staged.
        """
        receipts = self.job.store.receipts(self.job.epoch)
        return (left for piece in pieces for left in self._left(piece, receipts, done or self.staged.add))

    def _left(self, piece: PieceT, receipts: Receipts[Receipt], done: Callable[[Receipt], Any]) -> Iterator[PieceT]:
        """The piece if it has no receipt, or under another name if an earlier run could not read all of its files."""
        unread: list[Receipt] = []
        yield from receipts.unfinished(
            [piece], self.known, lambda receipt: (unread.append if receipt.unread else done)(receipt)
        )
        if unread:
            # The files could be read tonight. The receipt stays, since an intent of that run may name it.
            again = hashlib.blake2b(f"{piece.shard_id} again".encode(), digest_size=16).hexdigest()
            yield from self._left(cast(PieceT, replace(cast(Any, piece), shard_id=again)), receipts, done)
