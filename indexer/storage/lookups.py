"""Rows of a table by their ids or content hashes, through its indices."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import lance
import pyarrow as pa

from indexer import schema
from indexer.storage.filters import one_of, one_of_hashes
from indexer.storage.tables import open_version, reading

IDS_AT_ONCE = 500
"""Ids named in one filter."""


def lookup(uri: str, name: str, version: int, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Rows of some documents of a published table, all their chunks, in no particular order."""
    return lookup_in(open_version(uri, name, version), ids, columns)


def lookup_in(dataset: lance.LanceDataset, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """As :func:`lookup`, in a table that is open."""
    return _in_one(dataset, looked_up(dataset, ids, columns), columns)


def lookup_contents(uri: str, name: str, version: int, hashes: Sequence[bytes], columns: Sequence[str]) -> pa.Table:
    """Rows of the documents of a published table whose content hash is one of some, in no particular order."""
    dataset = open_version(uri, name, version)
    return _in_one(dataset, _matching(dataset, partial(one_of_hashes, schema.CONTENT_HASH), hashes, columns), columns)


def looked_up(
    dataset: lance.LanceDataset, ids: Sequence[str], columns: Sequence[str], *, with_row_address: bool = False
) -> Iterator[pa.Table]:
    """Rows of some documents of an open table, all their chunks, in no particular order."""
    return _matching(dataset, partial(one_of, schema.ID), ids, columns, with_row_address=with_row_address)


def _matching(
    dataset: lance.LanceDataset,
    condition: Callable[[Sequence[Any]], str],
    values: Sequence[Any],
    columns: Sequence[str],
    *,
    with_row_address: bool = False,
) -> Iterator[pa.Table]:
    """Rows that meet the condition of some values, a portion of the values at a time."""
    for start in range(0, len(values), IDS_AT_ONCE):
        wanted = condition(values[start : start + IDS_AT_ONCE])
        scanner = dataset.scanner(columns=list(columns), filter=wanted, with_row_address=with_row_address)
        with reading(dataset):
            found = scanner.to_table()
        yield found


def _in_one(dataset: lance.LanceDataset, found: Iterable[pa.Table], columns: Sequence[str]) -> pa.Table:
    """The tables as one, which has the columns also where there are none."""
    parts = list(found)
    return pa.concat_tables(parts) if parts else dataset.schema.empty_table().select(list(columns))
