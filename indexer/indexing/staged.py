"""What a night has staged so far."""

from dataclasses import dataclass, field

import pyarrow as pa

from indexer.storage.records import Receipt


@dataclass
class Staged:
    """Counts of the shards staged for the epoch; the receipts hold the fragments.

    Attributes:
        receipts: Shards staged.
        quarantine: Quarantined rows that no receipt has.
        removals: Files with the ids whose rows the epoch drops; known once all documents are staged.
        documents: Documents staged. ``chunks``, ``truncated`` and ``tokens`` are sums over the receipts too.
        embedded: Chunks that engines read, those of resumed shards too.
        quarantined: Documents that workers refused, or that killed workers.
        resumed: Shards to embed that an earlier run had staged.
        resumed_tokens: Tokens of the resumed shards.
        to_retry: Files and documents quarantined for reasons that may pass.
        unread: Receipts of shards that lack documents, since their files went bad after the comparison.
        moved: Documents whose vectors were reused under a new id.
        payload_changed: Documents whose vectors were reused with another payload.
        copied: Documents that got the vectors of an equal text.
        restarts: Workers that died and were replaced.
        seconds: Seconds by stage, summed over this run's workers.
    """

    receipts: list[str]
    quarantine: list[pa.Table]
    removals: list[str] = field(default_factory=list)
    documents: int = 0
    chunks: int = 0
    embedded: int = 0
    quarantined: int = 0
    truncated: int = 0
    tokens: int = 0
    resumed: int = 0
    resumed_tokens: int = 0
    to_retry: int = 0
    unread: list[Receipt] = field(default_factory=list)
    moved: int = 0
    payload_changed: int = 0
    copied: int = 0
    restarts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, receipt: Receipt) -> None:
        """Counts a shard."""
        self.receipts.append(receipt.shard_id)
        self.documents += receipt.documents
        self.chunks += receipt.chunks
        self.quarantined += receipt.quarantined
        self.to_retry += receipt.unread
        self.unread += [receipt] if receipt.unread else []
        self.truncated += receipt.truncated
        self.tokens += receipt.tokens
        # Receipts of versions that did not count them: reused vectors have no tokens.
        self.embedded += (receipt.chunks if receipt.tokens else 0) if receipt.embedded is None else receipt.embedded

    def resume(self, receipt: Receipt) -> None:
        """Counts a shard to embed that an earlier run had staged."""
        self.add(receipt)
        self.resumed += 1
        self.resumed_tokens += receipt.tokens
