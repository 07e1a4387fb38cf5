"""Where documents of tonight have their vectors, cut by shard."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.corpus.files import DataFile
from indexer.corpus.shards import FileRows, Shard
from indexer.indexing.reuse_shard import Sources


class KnownSources:
    """A table of sources, of which Python holds those of a shard alone: as tuples, all would take 300 bytes each."""

    def __init__(self, files: Sequence[DataFile], known: pa.Table) -> None:
        """Takes the table.

        Args:
            files: The corpus's files.
            known: Columns file (place in the list), row, epoch, source and maybe receipt, sorted by file and row.
        """
        self._places = {file.path: at for at, file in enumerate(files)}
        self._known = known
        self._files, self._rows = (known[name].to_numpy() for name in ("file", "row"))

    def of_shard(self, shard: Shard) -> Sources:
        """For path and row of the shard's documents their epoch and source, as far as the table has them."""
        found: dict[tuple[str, int], tuple[int, str]] = {}
        for part in shard.parts:
            known = self._of(part)
            sources = zip(known["epoch"].to_pylist(), known["source"].to_pylist(), strict=True)
            found.update(zip(((part.file.path, row) for row in known["row"].to_pylist()), sources, strict=True))
        return found

    def receipts_of(self, shard: Shard) -> list[str]:
        """The receipts that hold the sources of the shard's documents, sorted."""
        found = (pc.unique(self._of(part)["receipt"]).to_pylist() for part in shard.parts)
        return sorted({name for names in found for name in names})

    def _of(self, part: FileRows) -> pa.Table:
        """The rows of a part's documents."""
        at = self._places[part.file.path]
        first, end = np.searchsorted(self._files, [at, at + 1])
        start, stop = first + np.searchsorted(self._rows[first:end], [part.start, part.stop])
        is_chosen = part.chosen[self._rows[start:stop] - part.start]
        return self._known.slice(start, stop - start).filter(pa.array(is_chosen))
