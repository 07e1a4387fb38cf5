"""Search in the published tables of an index, with query vectors from a local engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from indexer import schema, tables, widths
from indexer.epochs import ControlStore, Epoch
from indexer.errors import SettingsError
from indexer.model import Model, open_model
from indexer.settings import EngineSettings, ModelSettings

HIDDEN = frozenset({schema.VECTOR, schema.CONTENT_HASH, schema.PAYLOAD_HASH})
"""Columns a result does not show."""


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        id: Document id.
        chunk: Chunk of the document.
        score: Similarity to the query, larger is nearer: 1 - distance for cosine and dot, -distance for l2.
        payload: Payload columns and the chunk's character span.
    """

    id: str
    chunk: int
    score: float
    payload: dict[str, Any]


class Published:
    """The latest epoch of an index; it stays at that epoch whatever is published later."""

    def __init__(self, uri: str, epoch: Epoch, engine: EngineSettings) -> None:
        """Wraps an epoch; use :func:`open_published`."""
        self.uri = uri
        self.epoch = epoch
        self._engine_settings = engine

    def table(self, width: int | None = None) -> Any:  # a lancedb table, whose module is not ours to import
        """LanceDB table of a width, the widest by default, at the published version.

        Raises:
            SettingsError: There is no table of that width.
        """
        state = self._state(width)
        return tables.search_table(self.uri, state.name, state.version)

    def read(self, width: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a width's table as Arrow.

        Args:
            width: Width, the widest by default.
            columns: Columns to read, all by default.

        Returns:
            The rows, in no particular order.
        """
        state = self._state(width)
        target = tables.table_schema(self.uri, state.name, state.version)
        chosen = list(columns or target.names)
        batches = tables.read(self.uri, state.name, state.version, chosen)
        return pa.Table.from_batches(batches, pa.schema([target.field(name) for name in chosen]))

    def quarantine(self) -> pa.Table:
        """Rows of the quarantine, :data:`indexer.schema.QUARANTINE_SCHEMA`."""
        name, version = self.epoch.quarantine
        batches = tables.read(self.uri, name, version, schema.QUARANTINE_SCHEMA.names)
        return pa.Table.from_batches(batches, schema.QUARANTINE_SCHEMA)

    def embed(self, queries: Sequence[str], instruction: str | None = None) -> np.ndarray:
        """Full-width vectors of queries, with the model's instruction template.

        Args:
            queries: Questions.
            instruction: Task, instead of the one the index was built with.

        Returns:
            float32, shape (len(queries), dimension), unit norm.
        """
        return self._engine.embed(self._model.tokenizer.queries(queries, instruction))

    def search(
        self, queries: Sequence[str], k: int = 10, width: int | None = None, where: str | None = None
    ) -> list[list[Hit]]:
        """Nearest chunks of each query.

        Args:
            queries: Questions.
            k: Results per query.
            width: Width to search at, the widest by default.
            where: SQL condition on columns of the table, e.g. ``"kind = 'class'"``.

        Returns:
            For each query its hits, best first.

        Raises:
            SettingsError: There is no such width, or the condition is not valid.
        """
        state = self._state(width)
        table = self.table(width)
        vectors = widths.cut(self.embed(queries), state.width)
        return [self._nearest(table.search(vector), state.probes, k, where) for vector in vectors]

    def _nearest(self, query: Any, probes: int | None, k: int, where: str | None) -> list[Hit]:
        query = query.distance_type(self._metric).limit(k)
        if probes is not None:
            query = query.nprobes(probes)
        try:
            rows = (query.where(where) if where else query).to_list()
        except (ValueError, RuntimeError) as error:
            raise SettingsError(f"the search was refused: {str(error).splitlines()[0]}") from None
        return [_hit(row, self._metric) for row in rows]

    @property
    def _metric(self) -> str:
        return str(self.epoch.description["layout"]["metric"])

    def _state(self, width: int | None) -> Any:
        by_width = {state.width: state for state in self.epoch.tables}
        wanted = max(by_width) if width is None else width
        if wanted not in by_width:
            raise SettingsError(f"no table of width {wanted}; there are {', '.join(map(str, sorted(by_width)))}")
        return by_width[wanted]

    @cached_property
    def _model(self) -> Model:
        """The model that made the vectors; another one's queries would meet nothing.

        Raises:
            SettingsError: The model found now has another fingerprint.
        """
        known: Mapping[str, Any] = self.epoch.description["model"]
        settings = ModelSettings(**{key: known[key] for key in ModelSettings.model_fields})
        model = open_model(settings, self._engine_settings)
        ours, theirs = model.fingerprint, self.epoch.description["fingerprint"]
        differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if differing:
            pairs = "; ".join(f"{key}: index {theirs.get(key)}, query model {ours.get(key)}" for key in differing)
            raise SettingsError(f"the query model is not the one that made the vectors: {pairs}")
        return model

    @cached_property
    def _engine(self) -> Any:
        return self._model.engine()


def open_published(uri: str, name: str, engine: Mapping[str, Any] | None = None) -> Published:
    """Opens the latest epoch of an index.

    Args:
        uri: LanceDB database.
        name: Name of the index.
        engine: vLLM engine arguments for the engine that embeds queries; it starts with the first search.

    Returns:
        The tables of that epoch, at their versions.

    Raises:
        SettingsError: Nothing is published under that name.
    """
    epoch = ControlStore(uri, name).latest_epoch()
    if epoch is None:
        raise SettingsError(f"no epoch of index {name!r} is published at {uri}; run jobs.index first")
    return Published(uri, epoch, EngineSettings(**(engine or {})))


def _hit(row: dict[str, Any], metric: str) -> Hit:
    distance = float(row["_distance"])
    payload = {key: value for key, value in row.items() if key not in HIDDEN and not key.startswith("_")}
    score = -distance if metric == "l2" else 1.0 - distance
    return Hit(str(payload.pop(schema.ID)), int(payload.pop(schema.CHUNK)), score, payload)
