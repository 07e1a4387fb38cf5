"""Full-text and filter indices of a table: makes those that are wanted, drops the others, says what is there."""

from collections.abc import Sequence
from dataclasses import dataclass

import lance

from indexer import schema
from indexer.storage import scalar_indices, text_index
from indexer.storage.description import TextRecord

IDS = "id_idx"

CONTENTS = "content_hash_idx"
"""Names of the indices that no setting asks for."""

OWN = frozenset({schema.ID, schema.VECTOR, schema.CONTENT_HASH})
"""Columns whose indices are not those of full-text search and filters."""


@dataclass(frozen=True)
class SearchIndices:
    """Indices that a table is to have beside those of its ids and vectors.

    Attributes:
        text: Columns and tokenizer of full-text search; ``None`` without.
        filters: Columns with a scalar index.
        contents: Whether to have an index of content hashes, by which runs find equal texts.
    """

    text: TextRecord | None = None
    filters: Sequence[str] = ()
    contents: bool = False

    @property
    def names(self) -> set[str]:
        """Names of the indices."""
        texts = map(text_index.index_name, self.text.columns if self.text else ())
        own = [CONTENTS] if self.contents else []
        return {*own, *texts, *map(scalar_indices.index_name, self.filters)}


NO_SEARCH_INDICES = SearchIndices()


def make_own(dataset: lance.LanceDataset, wanted: SearchIndices) -> None:
    """Builds the index of ids, and that of content hashes where it is wanted."""
    there = {found.field_names[0] for found in dataset.describe_indices()}
    if schema.ID not in there:
        dataset.create_scalar_index(schema.ID, "BTREE", name=IDS)
    if wanted.contents and schema.CONTENT_HASH not in there:
        dataset.create_scalar_index(schema.CONTENT_HASH, "BTREE", name=CONTENTS)


def make(dataset: lance.LanceDataset, wanted: SearchIndices) -> None:
    """Builds what is missing or has other parameters and drops what is not wanted. New rows are folded in elsewhere."""
    there = {found.name: found.field_names[0] for found in dataset.describe_indices()}
    for name, column in there.items():
        if column not in {schema.ID, schema.VECTOR} and name not in wanted.names:
            dataset.drop_index(name)
    if not dataset.count_rows():
        return
    # A column that somebody drops after our commit is missing here: publishing sees their version and commits again.
    present = dataset.schema.names
    for column in (column for column in wanted.filters if column in present):
        if scalar_indices.index_name(column) not in there:
            scalar_indices.build(dataset, column)
    texts = wanted.text.columns if wanted.text else ()
    for column in (column for column in texts if column in present):
        if not text_index.is_built(dataset, column, wanted.text):  # type: ignore[arg-type]
            text_index.build(dataset, column, wanted.text)  # type: ignore[arg-type]


def index_bytes(dataset: lance.LanceDataset) -> int:
    """Bytes of the table's full-text and filter indices."""
    return sum(found.total_size_bytes or 0 for found in dataset.describe_indices() if found.field_names[0] not in OWN)
