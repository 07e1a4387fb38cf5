"""What an epoch's tables answer without an engine, asked of whichever epoch is current."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from indexer.search.hits import Hit
from indexer.search.snapshot import Snapshot
from indexer.storage.records import Epoch, TableState

if TYPE_CHECKING:
    from indexer.storage.tables import Table


class CurrentEpoch(ABC):
    """Every call is answered by one epoch. For several calls on the same epoch, keep :attr:`snapshot`."""

    @property
    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The tables of the current epoch. It stays protected from pruning while the snapshot is referred to."""

    @property
    def uri(self) -> str:
        """LanceDB database."""
        return self.snapshot.uri

    @property
    def epoch(self) -> Epoch:
        """The current epoch."""
        return self.snapshot.epoch

    @property
    def text_columns(self) -> list[str]:
        """As :attr:`Snapshot.text_columns`."""
        return self.snapshot.text_columns

    def table(self, width: int | None = None) -> "Table":
        """As :meth:`Snapshot.table`."""
        return self.snapshot.table(width)

    def read(self, width: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """As :meth:`Snapshot.read`."""
        return self.snapshot.read(width, columns)

    def schema(self, width: int | None = None) -> pa.Schema:
        """As :meth:`Snapshot.schema`."""
        return self.snapshot.schema(width)

    def batches(self, columns: Sequence[str], width: int | None = None) -> Iterator[pa.RecordBatch]:
        """As :meth:`Snapshot.batches`."""
        return self.snapshot.batches(columns, width)

    def at(self, uri: str, epoch: Epoch) -> Snapshot:
        """As :meth:`Snapshot.at`."""
        return self.snapshot.at(uri, epoch)

    def quarantine(self) -> pa.Table:
        """As :meth:`Snapshot.quarantine`."""
        return self.snapshot.quarantine()

    def nearest(
        self,
        vectors: np.ndarray,
        k: int = 10,
        width: int | None = None,
        where: str | None = None,
        oversample: int = 1,
        columns: Sequence[str] | None = None,
        *,
        per_document: bool = False,
    ) -> list[list[Hit]]:
        """As :meth:`Snapshot.nearest`."""
        return self.snapshot.nearest(vectors, k, width, where, oversample, columns, per_document=per_document)

    def texts(self, ids: Sequence[str], chunks: Sequence[int] | None = None) -> list[str | None]:
        """As :meth:`Snapshot.texts`."""
        return self.snapshot.texts(ids, chunks)

    def column(self, ids: Sequence[str], name: str) -> list[Any]:
        """As :meth:`Snapshot.column`."""
        return self.snapshot.column(ids, name)

    def rows(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """As :meth:`Snapshot.rows`."""
        return self.snapshot.rows(ids, columns)

    def state(self, width: int | None = None) -> TableState:
        """As :meth:`Snapshot.state`."""
        return self.snapshot.state(width)
