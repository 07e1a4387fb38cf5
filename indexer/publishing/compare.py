"""What differs between two published epochs: documents, settings, versions of what made them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from indexer import schema
from indexer.differences import differing
from indexer.publishing.history import show
from indexer.storage import tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch


def compare(uri: str, store: ControlStore, before: int, after: int) -> dict[str, Any]:
    """Compares two epochs.

    Args:
        uri: LanceDB database.
        store: Control files of the index.
        before: Number of an epoch.
        after: Number of another one.

    Returns:
        JSON-ready: ``epochs``; ``documents``, with the numbers of both epochs and of ``added``, ``removed`` and
        ``changed`` documents, ``None`` where somebody has deleted a version; and, as pairs of values by name,
        ``settings``, ``made_with``, ``tables``, ``gates`` and ``quarantine``, each only where the epochs differ.

    Raises:
        SettingsError: There is no such epoch.
    """
    ours, theirs = show(store, before), show(store, after)
    return {
        "epochs": [before, after],
        "documents": _documents(uri, ours, theirs),
        "settings": _pairs(_settings(ours), _settings(theirs)) | _moved_bounds(ours, theirs),
        "made_with": _pairs(_made_with(ours), _made_with(theirs)),
        "tables": _pairs(_tables(ours), _tables(theirs)),
        "gates": _pairs(ours.description.gates, theirs.description.gates),
        "quarantine": _pairs(ours.description.quarantine_reasons, theirs.description.quarantine_reasons),
    }


def _pairs(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Both values of everything that differs; ``None`` stands for one that an epoch lacks."""
    return {name: [ours.get(name), theirs.get(name)] for name in differing(ours, theirs)}


def _settings(epoch: Epoch) -> dict[str, Any]:
    """The settings that an epoch records, by their names in the file where they have one."""
    described = epoch.description
    layout = described.layout.model_dump()
    return {
        "corpus.text_columns": described.text_columns,
        "corpus.payload": layout.pop("payload"),
        "index.payload": "copies" if layout.pop("repeated") is None else "once",
        **{f"index.{name}": value for name, value in layout.items()},
        **{f"model.{name}": value for name, value in described.model.model_dump().items()},
        **{f"fingerprint.{name}": value for name, value in described.fingerprint.items()},
    }


def _moved_bounds(ours: Epoch, theirs: Epoch) -> dict[str, list[Any]]:
    """Bounds of gates that both epochs were measured by, where they differ."""
    before, after = ours.description.bounds, theirs.description.bounds
    found = {name: pair for name, pair in _pairs(before, after).items() if name in before.keys() & after.keys()}
    return {f"{name} (bound)": pair for name, pair in found.items()}


def _made_with(epoch: Epoch) -> dict[str, str]:
    """vLLM, torch, device, driver and engine arguments."""
    engine = epoch.description.engine
    return dict(engine.made_with) if engine is not None else {}


def _tables(epoch: Epoch) -> dict[str, Any]:
    """Rows, bytes and index of every table by its width, rows and bytes of the table of documents."""
    found = {
        f"{table.width} {name}": getattr(table, name) for table in epoch.tables for name in ("rows", "bytes", "index")
    }
    if epoch.documents is not None:
        found |= {f"documents {name}": getattr(epoch.documents, name) for name in ("rows", "bytes")}
    return found


def _documents(uri: str, ours: Epoch, theirs: Epoch) -> dict[str, int | None]:
    """Numbers of documents, in both epochs and of those that differ in text or payload."""
    if not all(_is_there(uri, epoch) for epoch in (ours, theirs)):
        return dict.fromkeys(("before", "after", "added", "removed", "changed"))
    (before, old), (after, new) = (_condensed(uri, epoch) for epoch in (ours, theirs))
    both, in_old, in_new = np.intersect1d(before, after, assume_unique=True, return_indices=True)
    return {
        "before": len(before),
        "after": len(after),
        "added": len(after) - len(both),
        "removed": len(before) - len(both),
        "changed": int((old[in_old] != new[in_new]).sum()),
    }


def _is_there(uri: str, epoch: Epoch) -> bool:
    """Whether the narrowest table of an epoch still exists."""
    return tables.has_version(uri, epoch.tables[-1].name, epoch.tables[-1].version)


def _condensed(uri: str, epoch: Epoch) -> tuple[np.ndarray, np.ndarray]:
    """Ids and contents of an epoch's documents as 64-bit hashes: 16 bytes a document, however long the ids are.

    Returns:
        uint64, shape (documents,), each: hash of the id, hash of text and payload.
    """
    parts = list(_hashes(uri, epoch))
    ids, contents = (np.concatenate([part[at] for part in parts] or [np.empty(0, np.uint64)]) for at in (0, 1))
    return ids, contents


def _hashes(uri: str, epoch: Epoch) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The hashes of :func:`_condensed` by batches of the narrowest table."""
    narrow = epoch.tables[-1]
    columns = [schema.ID, schema.CHUNK, schema.CONTENT_HASH, schema.PAYLOAD_HASH]
    for batch in tables.read(uri, narrow.name, narrow.version, columns):
        frame = pl.DataFrame(pl.from_arrow(batch)).filter(pl.col(schema.CHUNK) == 0)
        content = frame.select(schema.CONTENT_HASH, schema.PAYLOAD_HASH).hash_rows(seed=0).to_numpy()
        yield frame[schema.ID].hash(seed=0).to_numpy(), content
