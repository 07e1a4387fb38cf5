"""What a published epoch holds, read in full."""

import random
from typing import Any

import numpy as np

from indexer.search import modes
from indexer.search.modes import SearchOptions
from indexer.search.published import Published, open_published
from indexer.storage import tables

WORDS = 2
"""Words of an epoch's texts that are searched for."""

Content = dict[int, dict[str, tuple[tuple[tuple[str, str], ...], bytes]]]
"""For every width and id the payload, sorted by column, and the vector."""


class Broken(AssertionError):
    """Something was lost, doubled, mixed, cannot be read or is stuck."""


def content(uri: str, name: str, number: int) -> dict[str, Any]:
    """All that an epoch holds: rows of every table, the quarantine, what searches for words find.

    Raises:
        Broken: An id occurs twice, or a search finds other documents than those that have the word.
    """
    published = open_published(uri, name, epoch=number)
    found: Content = {}
    for state in published.epoch.tables:
        payload = sorted(published.epoch.description.layout.payload)
        rows = published.read(state.width, ["id", "vector", *payload])
        vectors = tables.to_matrix(rows["vector"]) if rows.num_rows else np.empty((0, state.width), np.float32)
        columns = [rows[column].to_pylist() for column in payload]
        values = list(zip(*columns, strict=True)) if columns else [()] * rows.num_rows
        known = {
            key: (tuple(zip(payload, value, strict=True)), vector.tobytes())
            for key, value, vector in zip(rows["id"].to_pylist(), values, vectors, strict=True)
        }
        if len(known) != rows.num_rows:
            raise Broken(f"{name}: epoch {number} has an id twice in width {state.width}")
        found[state.width] = known
        documents = _documents(published)
        if documents is not None and documents != sorted(known):
            raise Broken(f"{name}: epoch {number} has in its table of documents {documents}, not {sorted(known)}")
    quarantine = published.quarantine()
    refused = zip(quarantine["id"].to_pylist(), quarantine["reason"].to_pylist(), strict=True)
    return {
        "tables": found,
        "quarantine": sorted(refused, key=str),
        "words": _found_by_words(published, found),
    }


def _documents(published: Published) -> list[str] | None:
    """Ids of the table of documents, sorted; ``None`` without such a table."""
    state = published.epoch.documents
    if state is None:
        return None
    batches = tables.read(published.uri, state.name, state.version, ["id"])
    return sorted(name for batch in batches for name in batch["id"].to_pylist())


def _found_by_words(published: Published, content: Content) -> dict[str, list[str]]:
    """What full-text search finds, of words that stand in a text or did so once, and a filter before it."""
    described = published.epoch.description
    if described.text is None or "text" not in described.layout.payload:
        return {}
    rows = {name: dict(payload) for name, (payload, _) in next(iter(content.values())).items()}
    spoken = {word for row in rows.values() for word in (row["text"] or "").split()}
    drawn = random.Random(str(sorted(spoken)))
    found = {}
    for word in [*drawn.sample(sorted(spoken), min(WORDS, len(spoken))), str(drawn.randrange(1, 100))]:
        for kept in ({}, {"lang": "de"}) if "lang" in described.layout.payload else ({},):
            options = SearchOptions(mode="text", filters=kept, columns=["text"])
            (hits,) = modes.find(published.snapshot, [word], None, 100, options)
            has = {name for name, row in rows.items() if word in (row["text"] or "").split()}
            has = {name for name in has if all(rows[name][key] == value for key, value in kept.items())}
            found[f"{word} {kept}"] = sorted(hit.id for hit in hits)
            if found[f"{word} {kept}"] != sorted(has):
                raise Broken(f"epoch {published.epoch.number} finds {hits} by {word!r}, not {has}")
    return found
