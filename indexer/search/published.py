"""Answers questions from a published index, with vectors and scores from local engines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from indexer.errors import SettingsError
from indexer.inference import environment
from indexer.inference.engine import Embedder, Scorer
from indexer.inference.model import Model, Reranker, open_model, open_reranker
from indexer.inference.reference import Probes, Reference
from indexer.search.hits import Hit
from indexer.search.snapshot import Snapshot
from indexer.settings import EngineSettings, ModelSettings, RerankerSettings
from indexer.storage.control import ControlStore
from indexer.storage.description import EngineRecord
from indexer.storage.records import Epoch
from indexer.uris import check_uri, shown

MEMORY = "gpu_memory_utilization"
"""vLLM's argument for the share of a GPU's memory that an engine takes."""


class Published(Snapshot):
    """One epoch of an index, searched with vectors and scores from local engines."""

    def __init__(self, uri: str, epoch: Epoch, engine: EngineSettings, reranker: Reranker | None) -> None:
        """Wraps an epoch; use :func:`open_published`."""
        super().__init__(uri, epoch)
        self._engine_settings = engine
        self._reranker = reranker

    @cached_property
    def model(self) -> Model:
        """The model that made the vectors; queries of another model cannot be compared with them.

        Raises:
            SettingsError: The model found now has another fingerprint.
        """
        known = self.epoch.description.model.model_dump(include=set(ModelSettings.model_fields))
        model = open_model(ModelSettings(**known), self._engine_settings)
        ours, theirs = model.fingerprint, self.epoch.description.fingerprint
        others = model.differing(theirs, is_complete=self.epoch.description.engine is not None)
        if others:
            pairs = "; ".join(f"{key}: index {theirs.get(key)}, query model {ours.get(key)}" for key in others)
            raise SettingsError(f"the query model is not the one that made the vectors: {pairs}")
        return model

    def embed(self, queries: Sequence[str], instructions: Sequence[str | None] | None = None) -> np.ndarray:
        """Full-width vectors of queries, with the model's instruction template.

        Args:
            queries: Questions.
            instructions: A task for each, ``None`` for the one the index was built with.

        Returns:
            float32, shape (len(queries), dimension), unit norm.
        """
        return self._engine.embed(self.model.tokenizer.queries(queries, instructions))

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        width: int | None = None,
        where: str | None = None,
        rerank: int | None = None,
    ) -> list[list[Hit]]:
        """Nearest chunks of each query.

        Args:
            queries: Questions.
            k: Results per query.
            width: Width to search at, the widest by default.
            where: SQL condition on columns of the table, e.g. ``"kind = 'class'"``.
            rerank: Candidates per query that the reranker scores and sorts before the first ``k`` are returned.

        Returns:
            For each query its hits, best first.

        Raises:
            SettingsError: There is no such width, the condition is not valid, or nothing can rerank.
        """
        self.state(width)  # refuses before an engine starts
        columns = [] if rerank is None else self.text_columns
        vectors = self.embed(queries)
        if rerank is None:
            return self.nearest(vectors, k, width, where)
        found = self.nearest(vectors, max(k, rerank), width, where)
        pairs = [(query, hit.text(columns)) for query, hits in zip(queries, found, strict=True) for hit in hits]
        scores = iter(self.score(pairs).tolist())
        reranked = [[replace(hit, score=next(scores)) for hit in hits] for hits in found]
        return [sorted(hits, key=lambda hit: -hit.score)[:k] for hits in reranked]

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Probability, for each pair of a query and a document, that the document answers the query.

        Args:
            pairs: Queries with documents.

        Returns:
            float32, shape (len(pairs),).

        Raises:
            SettingsError: The index was opened without a reranker.
        """
        reranker = self._given_reranker
        if not pairs:
            return np.empty(0, np.float32)
        batch = reranker.tokenizer.pairs(*zip(*pairs, strict=True))
        return self._scorer.score(batch.ids, batch.second)

    def make_engine(self, model: Model | None = None) -> Callable[[], Embedder]:
        """Makes a function that starts an engine for queries. It is small enough to be sent to workers.

        Args:
            model: Another model than the epoch's own.

        Returns:
            A function that starts the engine. It raises :class:`RefusedError` if the engine's vectors differ from the
            epoch's record.
        """
        return partial(_admitted, model or self.model, self.epoch.number, self.epoch.description.engine)

    @cached_property
    def _engine(self) -> Embedder:
        """The engine for queries, started at the first use."""
        return self.make_engine()()

    @cached_property
    def _scorer(self) -> Scorer:
        """The reranker's engine, started at the first use."""
        return self._given_reranker.engine()

    @property
    def _given_reranker(self) -> Reranker:
        """The reranker; refuses if the index was opened without one."""
        if self._reranker is None:
            raise SettingsError("no reranker: name one when opening the index, or with --rerank")
        return self._reranker


def _admitted(model: Model, epoch: int, recorded: EngineRecord | None) -> Embedder:
    """Starts the query engine and compares it with the epoch's recorded vectors, if it has any."""
    engine = model.engine()
    if recorded is not None:
        known = Probes.decoded(recorded.probe_ids, recorded.probe_vectors)
        reference = Reference(epoch, recorded.least_cosine, recorded.made_with, known.ids, list(known.vectors))
        now = environment.describe(model.engine_settings.arguments)
        reference.check(engine, now, "the query engine was not used")
    return engine


def open_published(
    uri: str,
    name: str,
    *,
    epoch: int | None = None,
    engine: Mapping[str, Any] | None = None,
    reranker: RerankerSettings | None = None,
) -> Published:
    """Opens a published epoch of an index.

    Args:
        uri: LanceDB database.
        name: Name of the index.
        epoch: Its number; the latest by default.
        engine: vLLM engine arguments for the engines, which start when they are first needed.
        reranker: Model for :meth:`Published.score` and for reranking.

    Returns:
        The tables of that epoch, at their versions.

    Raises:
        SettingsError: Nothing is published under that name, the URI may hold credentials, or the reranker cannot be
            loaded.
    """
    try:
        store = ControlStore(check_uri(uri), name)
    except ValueError as error:
        raise SettingsError(f"uri {error}") from None
    found = store.latest_epoch() if epoch is None else store.epoch(epoch)
    if found is None:
        raise SettingsError(f"no epoch of index {name!r} is published at {shown(uri)}; run jobs.index first")
    arguments = dict(engine or {})
    if reranker and MEMORY in arguments:  # two engines of this process share one GPU
        arguments[MEMORY] = float(arguments[MEMORY]) / 2
    settings = EngineSettings(**arguments)
    return Published(uri, found, settings, open_reranker(reranker, settings) if reranker else None)
