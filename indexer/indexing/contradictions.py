"""Settings that contradict the published index: their names, both values and the remedy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from indexer.differences import published_and_asked
from indexer.inference.model import Model
from indexer.settings import Settings
from indexer.storage import tables
from indexer.storage.description import Description
from indexer.storage.records import Epoch

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
        reason: Why stored vectors do not give what is asked.
    """

    name: str
    published: str
    asked: str
    reason: str = "vectors are never mixed"

    def __str__(self) -> str:
        """Name and both values."""
        return published_and_asked(self.name, self.published, self.asked)


def stored_payload(uri: str, published: Epoch) -> pa.Schema:
    """The published tables' payload columns with their types.

    Args:
        uri: LanceDB database.
        published: The epoch.
    """
    described, stored = published.description.layout.payload, published.payload_table
    if not described:
        return pa.schema([])
    known = tables.table_schema(uri, stored.name, stored.version)
    return pa.schema([known.field(name) for name in known.names if name in described])


def has_payload(published: Epoch, payload: pa.Schema) -> bool:
    """Whether names, types and order of the published payload are these."""
    described = published.description.layout.payload
    return list(described.items()) == [(field.name, str(field.type)) for field in payload]


def refusal(differences: str, found: Sequence[Contradiction], cost: str) -> str:
    """Why a run is refused, and what to do.

    Args:
        differences: Every difference, in words.
        found: The contradictions among them.
        cost: What a rebuild would cost, in words.
    """
    reasons = "; ".join(dict.fromkeys(one.reason for one in found))
    return (
        f"{differences}; {reasons}: restore the settings, build everything anew with --rebuild ({cost}), or choose "
        "another index.name"
    )


def of_vectors(described: Description, settings: Settings, model: Model) -> Iterator[Contradiction]:
    """Differences that make vectors incomparable: text columns, token limits, parts of the fingerprint.

    Args:
        described: Of the published epoch.
        settings: Settings of the run.
        model: Its model.

    Yields:
        Each difference.
    """
    before, columns = described.model, described.text_columns
    if columns != settings.corpus.text_columns:
        yield Contradiction("corpus.text_columns", str(columns), str(settings.corpus.text_columns))
    ours, theirs = model.fingerprint, described.fingerprint
    limits = {name: (getattr(before, name), getattr(settings.model, name)) for name in LIMITS}
    limits["max_tokens"] = (before.max_tokens, model.max_tokens)
    if ours.get(TOKENIZER) != theirs.get(TOKENIZER):
        changed = {name: pair for name, pair in limits.items() if pair[0] != pair[1]}
        for name, pair in changed.items():
            yield Contradiction(f"model.{name}", str(pair[0]), str(pair[1]))
        if changed:
            theirs = {**theirs, TOKENIZER: ours[TOKENIZER]} | {name: ours[name] for name in changed if name in ours}
    for key in model.differing(theirs, is_complete=described.engine is not None):
        names = [before.name, settings.model.name] if key == "weights" else ["", ""]
        then, now = (_shown(name, part.get(key)) for name, part in zip(names, (theirs, ours), strict=True))
        yield Contradiction(f"model: {key}", then, now)


def _shown(name: str, value: str | None) -> str:
    """A part of a fingerprint for a message; long digests are cut."""
    short = str(value) if value is None or len(value) < 2 * DIGITS else value[:DIGITS]
    return f"{name} {short}".strip()
