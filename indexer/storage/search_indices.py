"""Full-text and filter indices of a table: makes those that are wanted, drops the others, says what is there."""

from collections.abc import Sequence
from dataclasses import dataclass

import lance

from indexer import schema
from indexer.storage import scalar_indices, text_index
from indexer.storage.description import TextRecord
from indexer.storage.index_spec import IndexSpec

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


def missing(dataset: lance.LanceDataset, wanted: SearchIndices) -> list[IndexSpec]:
    """Indices that the table lacks or has with other parameters, that of ids included. An empty table gets none."""
    if not dataset.count_rows():
        return []
    there = {found.name: found.field_names[0] for found in dataset.describe_indices()}
    # A column that somebody drops after our commit is missing here: publishing sees their version and commits again.
    present = dataset.schema.names
    own = [IndexSpec(IDS, schema.ID, "BTREE")]
    own += [IndexSpec(CONTENTS, schema.CONTENT_HASH, "BTREE")] if wanted.contents else []
    filters = [scalar_indices.spec(column) for column in wanted.filters if column in present]
    found = [spec for spec in own if spec.column not in there.values()]
    found += [spec for spec in filters if spec.name not in there]
    if wanted.text is not None:
        texts = (column for column in wanted.text.columns if column in present)
        lacking = (column for column in texts if not text_index.is_built(dataset, column, wanted.text))
        found += [text_index.spec(column, wanted.text) for column in lacking]
    return found


def make(dataset: lance.LanceDataset, wanted: SearchIndices) -> None:
    """Builds what is missing or has other parameters and drops what is not wanted. New rows are folded in elsewhere."""
    for found in dataset.describe_indices():
        if found.field_names[0] not in {schema.ID, schema.VECTOR} and found.name not in wanted.names:
            dataset.drop_index(found.name)
    for spec in missing(dataset, wanted):
        scalar_indices.build(dataset, spec)


def index_bytes(dataset: lance.LanceDataset) -> int:
    """Bytes of the table's full-text and filter indices."""
    return sum(found.total_size_bytes or 0 for found in dataset.describe_indices() if found.field_names[0] not in OWN)
