"""Differences between the published tables and the settings, which a run applies from stored vectors."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from indexer.differences import differing, published_and_asked
from indexer.indexing.contradictions import Contradiction
from indexer.schema import Layout
from indexer.storage.description import LayoutRecord
from indexer.storage.records import Epoch
from indexer.storage.vector_index import choose_index_type


@dataclass(frozen=True)
class LayoutChange:
    """What a run changes of the published tables, apart from their documents.

    Attributes:
        differences: Every change in words, with both values.
        remade: Tables that are staged as a whole: they get other columns or vectors, or are not published.
        payload: Whether the payload's columns change: then every document is read again.
    """

    differences: list[str] = field(default_factory=list)
    remade: frozenset[str] = frozenset()
    payload: bool = False


NO_CHANGE = LayoutChange()


def layout_change(published: Epoch, layout: Layout, stored: pa.Schema | None, vector_index: str) -> LayoutChange:
    """Compares the tables of a run with the published ones.

    Args:
        published: The epoch.
        layout: Tables of the run.
        stored: Result of :func:`indexer.indexing.contradictions.stored_payload`, ``None`` if the run has that payload.
        vector_index: The setting.
    """
    described = published.description.layout
    payload = list(_of_payload(described.payload, layout, stored))
    columns = [_of_widths(described.payload, described.repeated), _of_widths(layout.payload.names, layout.repeated)]
    everything = bool(payload) or described.precision != layout.precision or columns[0] != columns[1]
    remade = {layout.table(width) for width in layout.widths}
    if not everything:
        remade -= {table.name for table in published.tables}
    if layout.documents is not None and (payload or published.documents is None):
        remade.add(layout.documents)
    return LayoutChange(
        differences=[*_of_settings(described, layout), *payload, *_of_indices(published, layout, vector_index)],
        remade=frozenset(remade),
        payload=bool(payload),
    )


def _of_widths(payload: Iterable[str], repeated: Iterable[str] | None) -> set[str]:
    """Payload columns of the width tables."""
    return set(payload if repeated is None else repeated)


def impossible(published: Epoch, layout: Layout) -> Iterator[Contradiction]:
    """Changes that no stored vector can give."""
    described = published.description.layout
    widest = max(described.widths)
    if max(layout.widths) > widest:
        reason = f"the widest stored vectors have {widest} components, and a wider one does not follow from them"
        yield Contradiction("index.widths", _listed(described.widths), _listed(layout.widths), reason)
    if (described.precision, layout.precision) == ("float16", "float32"):
        reason = "what float16 rounded away cannot be restored"
        yield Contradiction("index.precision", described.precision, layout.precision, reason)


def gives(epoch: Epoch, layout: Layout) -> bool:
    """Whether an epoch's vectors are wide and exact enough for the tables of a run."""
    has_hashes = epoch.description.layout.chunk_hashes or not layout.chunk_hashes
    return has_hashes and not list(impossible(epoch, layout))


def _of_settings(described: LayoutRecord, layout: Layout) -> Iterator[str]:
    """Changed widths, precision and metric, and where the payload stands."""
    if set(described.widths) != set(layout.widths):
        yield published_and_asked("index.widths", _listed(described.widths), _listed(layout.widths))
    if described.precision != layout.precision:
        yield published_and_asked("index.precision", described.precision, layout.precision)
    if described.metric != layout.metric:
        yield published_and_asked("index.metric", described.metric, layout.metric)
    before, now = described.repeated, layout.repeated
    if before is None or now is None:
        if (before is None) != (now is None):
            yield published_and_asked(
                "index.payload", *("copies" if columns is None else "once" for columns in (before, now))
            )
    elif before != list(now):
        yield published_and_asked("index.filters", str(before), str(list(now)))


def _of_payload(before: dict[str, str], layout: Layout, stored: pa.Schema | None) -> Iterator[str]:
    """Columns added and removed, and other types."""
    theirs = before if stored is None else {field.name: str(field.type) for field in stored}
    ours = {field.name: str(field.type) for field in layout.payload}
    for name in differing(ours, theirs):
        yield published_and_asked(f"corpus.payload: {name}", theirs.get(name, "not there"), ours.get(name, "not there"))


def _of_indices(published: Epoch, layout: Layout, vector_index: str) -> Iterator[str]:
    """Tables that stay and whose vector index is not the one that the setting asks for."""
    for table in published.tables:
        wanted = choose_index_type(vector_index, table.rows, table.width)
        if table.width in layout.widths and table.rows and wanted != table.index:
            yield published_and_asked(f"index.vector_index of width {table.width}", table.index, wanted)


def _listed(widths: Iterable[int]) -> str:
    """Widths, widest first."""
    return str(sorted(widths, reverse=True))
