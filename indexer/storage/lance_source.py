"""Lance datasets that are read as a corpus, fragment by fragment; the index's own tables are in ``tables``."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

FAULTS = (OSError, ValueError, RuntimeError, pa.ArrowException)
"""What Lance raises where a dataset cannot be read."""


@dataclass(frozen=True)
class Fragment:
    """A fragment of the latest version of a dataset.

    Attributes:
        number: Its number, unique in the dataset.
        size: Bytes of its data files.
        content: Digest of the names of its files, which never change, and of what is deleted in it.
    """

    number: int
    size: int
    content: str


def fragments(uri: str) -> list[Fragment]:
    """Fragments of the latest version of a dataset; raises :data:`FAULTS`."""
    return [_described(fragment) for fragment in _open(uri).get_fragments()]


def find_fragment(uri: str, number: int) -> Fragment | None:
    """A fragment of the latest version, ``None`` if there is none; raises :data:`FAULTS`."""
    fragment = _open(uri).get_fragment(number)
    return None if fragment is None else _described(fragment)


class FragmentReader:
    """Reads one fragment, without its deleted rows."""

    def __init__(self, uri: str, number: int) -> None:
        """Opens it; raises :data:`FAULTS`."""
        fragment = _open(uri).get_fragment(number)
        if fragment is None:
            raise OSError("the latest version of the dataset has no such fragment")
        self._fragment = fragment

    @property
    def schema(self) -> pa.Schema:
        """Columns of the dataset."""
        return self._fragment.schema

    def count_rows(self) -> int:
        """Rows that are not deleted."""
        return int(self._fragment.count_rows())

    def batches(
        self, columns: Sequence[str] | None, start: int, stop: int | None, most_rows: int, most_bytes: int
    ) -> Iterator[pa.RecordBatch]:
        """Reads a range of rows; raises :data:`FAULTS`."""
        scanner = self._fragment.scanner(
            columns=None if columns is None else [*columns],
            offset=start,
            limit=None if stop is None else stop - start,
            batch_size=most_rows,
            batch_size_bytes=most_bytes,
            batch_readahead=1,
        )
        yield from scanner.to_batches()


def _open(uri: str) -> Any:
    """The latest version of a dataset."""
    # 0.2 s that processes which read other formats need not wait for.
    import lance  # noqa: PLC0415

    return lance.dataset(uri)


def _described(fragment: Any) -> Fragment:
    """A fragment by what the dataset says of it."""
    told = fragment.metadata.to_json()
    size = sum(file["file_size_bytes"] or 0 for file in told["files"])
    content = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()
    return Fragment(fragment.fragment_id, size, content)
