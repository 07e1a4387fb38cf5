"""The model of an epoch's vectors, and the engine that embeds queries with it."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from indexer.errors import SettingsError
from indexer.inference import environment
from indexer.inference.engine import Embedder
from indexer.inference.model import Model, open_model
from indexer.inference.reference import Probes, Reference
from indexer.search import query_vectors
from indexer.search.engine_thread import QueryEmbedder
from indexer.settings import EngineSettings, ModelSettings
from indexer.storage.description import EngineRecord
from indexer.storage.records import Epoch
from indexer.storage.vector_columns import QueryVectors


class QueryModel:
    """Embeds queries for one epoch, for any number of threads. Nothing is loaded before the first query."""

    def __init__(
        self,
        epoch: Epoch,
        engine: EngineSettings,
        name: str | None = None,
        model: Model | None = None,
        embedder: QueryEmbedder | None = None,
    ) -> None:
        """Describes the model.

        Args:
            epoch: The epoch, which records its model.
            engine: The engine section.
            name: Directory or hub id of the checkpoint, if it is not where the epoch says.
            model: The model, if it is known already.
            embedder: Its engine, if there is one.
        """
        self._epoch, self._engine_settings, self._name = epoch, engine, name
        self._loading = threading.RLock()
        self._model, self._embedder = model, embedder
        self._is_admitted = False

    @property
    def model(self) -> Model:
        """The model that made the vectors; queries of another model cannot be compared with them.

        Raises:
            SettingsError: There is no such model, or the one found has another fingerprint.
        """
        with self._loading:
            if self._model is None:
                self._model = _matching_model(self._epoch, self._engine_settings, self._name)
            return self._model

    def embed(self, queries: Sequence[str], instructions: Sequence[str | None] | None = None) -> QueryVectors:
        """Vectors of queries; errors as :meth:`engine`."""
        tokens = self.model.tokenizer.queries(queries, instructions)
        return query_vectors.of_engine(self.engine().embed(tokens), tokens)

    def engine(self) -> QueryEmbedder:
        """The engine for queries, started and compared with the epoch's recorded vectors at the first use.

        Raises:
            SettingsError: As :attr:`model`.
            EngineError: The engine cannot start.
            RefusedError: Its vectors differ from the epoch's.
        """
        with self._loading:
            if self._embedder is None:
                self._embedder = QueryEmbedder(self.model.engine, self.model.checkpoint.dimension)
            if not self._is_admitted:
                check_engine(self._embedder, self.model, self._epoch.number, self._epoch.description.engine)
                self._is_admitted = True
            return self._embedder

    def for_epoch(self, epoch: Epoch) -> Self:
        """The same for another epoch. If the model is the same, so is the engine, and it is compared at once.

        Raises:
            RefusedError: The engine's vectors differ from the epoch's.
        """
        ours, theirs = self._epoch.description, epoch.description
        with self._loading:
            is_same = ours.fingerprint == theirs.fingerprint
            model = self._model if is_same and ours.model == theirs.model else None
            embedder = self._embedder if is_same else None
        other = type(self)(epoch, self._engine_settings, self._name, model, embedder)
        if embedder is not None and embedder.is_started:
            other.engine()
        return other

    def close(self) -> None:
        """Ends the engine."""
        with self._loading:
            if self._embedder is not None:
                self._embedder.close()


def _matching_model(epoch: Epoch, engine: EngineSettings, name: str | None) -> Model:
    """The epoch's model, its fingerprint compared."""
    known = epoch.description.model.model_dump(include=set(ModelSettings.model_fields))
    if name is not None:
        known |= {"name": name} | ({"revision": None} if Path(name).expanduser().is_dir() else {})
    model = open_model(ModelSettings(**known), engine)
    ours, theirs = model.fingerprint, epoch.description.fingerprint
    others = model.differing(theirs, is_complete=epoch.description.engine is not None)
    if others:
        pairs = "; ".join(f"{key}: index {theirs.get(key)}, query model {ours.get(key)}" for key in others)
        raise SettingsError(f"the query model is not the one that made the vectors: {pairs}")
    return model


def check_engine(engine: Embedder, model: Model, epoch: int, recorded: EngineRecord | None) -> None:
    """Compares an engine with an epoch's recorded vectors, if it has any.

    Raises:
        RefusedError: They differ.
    """
    if recorded is not None:
        known = Probes.decoded(recorded.probe_ids, recorded.probe_vectors)
        reference = Reference(epoch, recorded.least_cosine, recorded.made_with, known.ids, list(known.vectors))
        now = environment.describe(model.engine_settings.arguments)
        reference.check(engine, now, "the query engine was not used")


def admitted(model: Model, epoch: int, recorded: EngineRecord | None) -> Embedder:
    """Starts an engine in this thread and compares it with the epoch's recorded vectors."""
    engine = model.engine()
    check_engine(engine, model, epoch, recorded)
    return engine
