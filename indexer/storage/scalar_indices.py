"""Scalar indices on payload columns, so that a filter finds its rows without reading the column."""

from collections.abc import Mapping
from typing import Literal

import lance
import polars as pl
import pyarrow as pa
from pyarrow import types

from indexer.schema import CONTENT_HASH
from indexer.storage.filters import can_compare
from indexer.storage.index_spec import IndexSpec
from indexer.storage.tables import open_version

BITMAP_VALUES = 1_000
"""Most different values of a column with a bitmap for each; columns with more get a B-tree."""

Kind = Literal["BTREE", "BITMAP", "LABEL_LIST"]

KINDS: Mapping[str, Kind] = {"BTree": "BTREE", "Bitmap": "BITMAP", "LabelList": "LABEL_LIST"}
"""Our names, which are LanceDB's, by those of Lance's descriptions."""


def index_name(column: str) -> str:
    """Name of a column's scalar index."""
    return f"{column}_filter"


def can_index(type_: pa.DataType) -> bool:
    """Whether a payload column's type can have a scalar index that filters use; of float16 Lance uses none."""
    return can_compare(type_) and not types.is_float16(type_)


def choose_kind(dataset: lance.LanceDataset, column: str) -> Kind:
    """LABEL_LIST for lists; BITMAP where the column has few different values; else BTREE."""
    type_ = dataset.schema.field(column).type
    if types.is_list(type_):
        return "LABEL_LIST"
    return "BITMAP" if types.is_boolean(type_) or _has_few_values(dataset, column) else "BTREE"


def _has_few_values(dataset: lance.LanceDataset, column: str) -> bool:
    """Whether the column has at most :data:`BITMAP_VALUES` different values; reads no further than it needs."""
    seen = pl.Series(dtype=pl.UInt64)
    for batch in dataset.scanner(columns=[column]).to_batches():
        hashes = pl.DataFrame(pl.from_arrow(batch)).hash_rows(seed=0)
        seen = pl.concat([seen, hashes]).unique()
        if len(seen) > BITMAP_VALUES:
            return False
    return True


def has_contents(uri: str, name: str, version: int) -> bool:
    """Whether a published table has an index of its content hashes."""
    return any(found.field_names == [CONTENT_HASH] for found in open_version(uri, name, version).describe_indices())


def spec(column: str) -> IndexSpec:
    """A filter's index on a column, of the kind that suits its values."""
    return IndexSpec(index_name(column), column, None)


def build(dataset: lance.LanceDataset, spec: IndexSpec) -> None:
    """Gives a column a scalar or full-text index; replaces the one of that name."""
    kind = spec.kind or choose_kind(dataset, spec.column)
    dataset.create_scalar_index(spec.column, kind, name=spec.name, replace=True, **spec.parameters)  # type: ignore[arg-type]


def built(dataset: lance.LanceDataset) -> Mapping[str, Kind]:
    """Kind of every column's scalar index, of those that filters asked for."""
    return {
        found.field_names[0]: KINDS[found.index_type]
        for found in dataset.describe_indices()
        if found.index_type in KINDS and found.name == index_name(found.field_names[0])
    }
