"""What of an index can be searched and filtered: the settings beside what is published."""

from typing import Any

import pyarrow as pa

from indexer.errors import SettingsError
from indexer.settings import IndexSettings
from indexer.storage import scalar_indices, text_index
from indexer.storage.description import TextRecord
from indexer.storage.records import Epoch


def text_record(index: IndexSettings) -> TextRecord | None:
    """Full-text search as the epoch records it; ``None`` without."""
    if not index.text_search:
        return None
    return TextRecord(columns=index.text_search, **index.text.model_dump())


def search_entries(index: IndexSettings) -> dict[str, Any]:
    """Entries of the epoch's description; none for what is not asked for."""
    text = text_record(index)
    entries: dict[str, Any] = {} if text is None else {"text": text}
    return entries | ({"filters": index.filters} if index.filters else {})


def search_differs(index: IndexSettings, published: Epoch | None) -> bool:
    """Whether another text or filter index is asked for than is published."""
    if published is None:
        return False
    described = published.description
    return described.text != text_record(index) or sorted(described.filters) != sorted(index.filters)


def check_searched(index: IndexSettings, payload: pa.Schema) -> None:
    """Refuses columns that cannot have the index that is asked for.

    Raises:
        SettingsError: Names the column and its type.
    """
    for key, names, fits in (
        ("text_search", index.text_search, text_index.can_hold_text),
        ("filters", index.filters, scalar_indices.can_index),
    ):
        for field in (payload.field(name) for name in names):
            if not fits(field.type):
                raise SettingsError(
                    f"index.{key}: column {field.name!r} of type {field.type} cannot have this index; leave it out, or "
                    "write the column as another type"
                )
