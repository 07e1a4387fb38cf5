"""Settings that contradict the published index: their names, both values and the remedy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from indexer.inference.model import Model
from indexer.schema import Layout
from indexer.settings import Settings
from indexer.storage import tables
from indexer.storage.description import Description
from indexer.storage.records import Epoch, differing

TOKENIZER = "tokenizer"
"""Part of the fingerprint that holds the limits below too."""

LIMITS = ("max_tokens", "overflow", "chunk_overlap")
"""Settings of the model that change the ids of a document."""

DIGITS = 12
"""Hexadecimal digits of a digest that a message shows."""


@dataclass(frozen=True)
class Contradiction:
    """One setting that differs from its published value.

    Attributes:
        name: The setting.
        published: Its value in the published epoch.
        asked: Its value now.
        changes_vectors: Whether their vectors cannot be compared; otherwise one table cannot hold both.
    """

    name: str
    published: str
    asked: str
    changes_vectors: bool

    def __str__(self) -> str:
        """Name and both values."""
        return f"{self.name} (published: {self.published}, asked: {self.asked})"


def contradictions(
    published: Epoch, settings: Settings, model: Model, layout: Layout, stored: pa.Schema | None
) -> list[Contradiction]:
    """Compares a run's inputs with the published epoch.

    Args:
        published: The epoch.
        settings: Settings of the run.
        model: Its model.
        layout: Its tables.
        stored: Result of :func:`stored_payload`.
    """
    return [
        *_of_vectors(published.description, settings, model),
        *_of_tables(published.description.layout.model_dump(), layout, stored),
    ]


def stored_payload(uri: str, published: Epoch, payload: pa.Schema) -> pa.Schema | None:
    """The payload's columns with the published tables' types; ``None`` if names and types are equal anyway.

    Args:
        uri: LanceDB database.
        published: The epoch.
        payload: The payload's columns as the corpus has them.
    """
    described = published.description.layout.payload
    if list(described.items()) == [(field.name, str(field.type)) for field in payload]:
        return None
    narrow = published.tables[-1]
    known = tables.table_schema(uri, narrow.name, narrow.version)
    return pa.schema([known.field(name) for name in known.names if name in described])


def differences(found: Sequence[Contradiction]) -> str:
    """The differences, in words."""
    return f"the published index was built with other settings: {', '.join(map(str, found))}"


def refusal(found: Sequence[Contradiction]) -> str:
    """Why a run is refused, and what to do."""
    vectors = any(one.changes_vectors for one in found)
    reason = "vectors are never mixed" if vectors else "one table cannot hold both"
    return (
        f"{differences(found)}; {reason}: restore the settings, build everything anew with --rebuild, or choose "
        "another index.name"
    )


def _of_vectors(described: Description, settings: Settings, model: Model) -> Iterator[Contradiction]:
    """Differences that make vectors incomparable: text columns, token limits, parts of the fingerprint."""
    before, columns = described.model, described.text_columns
    if columns != settings.corpus.text_columns:
        yield Contradiction(
            "corpus.text_columns", str(columns), str(settings.corpus.text_columns), changes_vectors=True
        )
    ours, theirs = model.fingerprint, described.fingerprint
    limits = {name: (getattr(before, name), getattr(settings.model, name)) for name in LIMITS}
    limits["max_tokens"] = (before.max_tokens, model.max_tokens)
    if ours.get(TOKENIZER) != theirs.get(TOKENIZER):
        changed = {name: pair for name, pair in limits.items() if pair[0] != pair[1]}
        for name, pair in changed.items():
            yield Contradiction(f"model.{name}", str(pair[0]), str(pair[1]), changes_vectors=True)
        if changed:
            theirs = {**theirs, TOKENIZER: ours[TOKENIZER]} | {name: ours[name] for name in changed if name in ours}
    for key in model.differing(theirs, is_complete=described.engine is not None):
        names = [before.name, settings.model.name] if key == "weights" else ["", ""]
        then, now = (_shown(name, part.get(key)) for name, part in zip(names, (theirs, ours), strict=True))
        yield Contradiction(f"model: {key}", then, now, changes_vectors=True)


def _shown(name: str, value: str | None) -> str:
    """A part of a fingerprint for a message; long digests are cut."""
    short = str(value) if value is None or len(value) < 2 * DIGITS else value[:DIGITS]
    return f"{name} {short}".strip()


def _of_tables(described: Mapping[str, Any], layout: Layout, stored: pa.Schema | None) -> Iterator[Contradiction]:
    """Differences that one table cannot hold: widths, precision, metric, payload types."""
    ours = layout.describe()
    theirs = dict(described)
    if stored is not None:
        theirs["payload"] = {field.name: str(field.type) for field in stored}
    before, after = theirs.pop("payload"), ours.pop("payload")
    for key in differing(ours, theirs):
        yield Contradiction(f"index.{key}", str(theirs.get(key)), str(ours.get(key)), changes_vectors=False)
    for name in differing(before, after):
        then, now = (str(types.get(name, "not there")) for types in (before, after))
        yield Contradiction(f"corpus.payload: {name}", then, now, changes_vectors=False)
