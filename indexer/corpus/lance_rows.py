"""Lance datasets: each fragment is read as a file of the corpus is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from indexer.corpus.files import DataFile
from indexer.corpus.open_file import BATCH_BYTES, BATCH_ROWS, RowBatch, WantedTypes, check_end, damaged
from indexer.corpus.places import Place
from indexer.errors import BadFile, first_line
from indexer.storage.lance_source import FAULTS, Fragment, FragmentReader, find_fragment, fragments

MARK = "#"
"""Before the number of a fragment: ``docs.lance#3``."""


class LanceRows:
    """Rows of a fragment."""

    def __init__(self, reader: FragmentReader, file: DataFile) -> None:
        """Takes the open fragment, and its name for errors."""
        self._reader = reader
        self._file = file

    @property
    def schema(self) -> pa.Schema:
        """Columns of the dataset."""
        return self._reader.schema

    def count_rows(self) -> int:
        """Rows that are not deleted."""
        return self._reader.count_rows()

    def batches(
        self, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[RowBatch]:
        """Reads a range of rows, see :meth:`indexer.corpus.open_file.OpenFile.batches`."""
        row = start
        try:
            for batch in self._reader.batches(columns, start, stop, BATCH_ROWS, BATCH_BYTES):
                yield RowBatch(row, batch)
                row += batch.num_rows
        except FAULTS as error:
            raise damaged(self._file.path, row, error) from None
        check_end(self._file.path, row, stop)


@contextmanager
def open_fragment(place: Place, file: DataFile, _wanted: WantedTypes) -> Iterator[LanceRows]:
    """Opens a fragment; raises :class:`BadFile` where Lance cannot."""
    try:
        rows = LanceRows(FragmentReader(*_parts(place, file.path)), file)
    except FAULTS as error:
        raise BadFile(f"{file.path}: not a Lance fragment that can be read: {first_line(error)}") from None
    yield rows


def find_file(place: Place, path: str) -> DataFile | None:
    """The fragment of a path, ``None`` if the latest version of the dataset has none."""
    try:
        found = find_fragment(*_parts(place, path))
    except FAULTS as error:
        raise OSError(first_line(error)) from None
    return None if found is None else _file(path.rpartition(MARK)[0], found)


def list_fragments(place: Place, dataset: str) -> list[DataFile]:
    """The fragments of a dataset as files; raises :class:`OSError` where it cannot be read."""
    try:
        return [_file(dataset, fragment) for fragment in fragments(place.uri(dataset))]
    except FAULTS as error:
        raise OSError(f"{dataset}: {first_line(error)}") from None


def _parts(place: Place, path: str) -> tuple[str, int]:
    """URI of the dataset and number of the fragment."""
    dataset, _, number = path.rpartition(MARK)
    return place.uri(dataset), int(number)


def _file(dataset: str, fragment: Fragment) -> DataFile:
    """A fragment as a file of the corpus."""
    return DataFile(f"{dataset}{MARK}{fragment.number}", fragment.size, 0, fragment.content)
