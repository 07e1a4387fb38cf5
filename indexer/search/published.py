"""Answers questions from a published index, with vectors and scores from local engines."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from indexer.errors import SettingsError
from indexer.inference.engine import Embedder
from indexer.inference.model import Model, Reranker, open_reranker
from indexer.inference.start import MEMORY
from indexer.search import modes
from indexer.search.current_epoch import CurrentEpoch
from indexer.search.engine_thread import PairScorer
from indexer.search.epoch_lease import EpochLease
from indexer.search.hits import Hit
from indexer.search.modes import SearchOptions
from indexer.search.query_model import QueryModel, admitted
from indexer.search.snapshot import Snapshot
from indexer.search_settings import Mode
from indexer.settings import EngineSettings, RerankerSettings
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch
from indexer.storage.vector_columns import QueryVectors
from indexer.uris import check_uri, shown


class InUse(NamedTuple):
    """An epoch's tables and the model of its queries; replaced together."""

    snapshot: Snapshot
    queries: QueryModel


class Published(CurrentEpoch):
    """An index, searched with vectors and scores from local engines by any number of threads.

    It stays at one epoch, which neither pruning nor a clean-up deletes meanwhile, until :meth:`refresh`. Queries that
    several threads ask at once are embedded together. Use it as a context manager or call :meth:`close`; otherwise the
    engines end when it is collected.
    """

    def __init__(self, store: ControlStore, snapshot: Snapshot, queries: QueryModel, reranker: Reranker | None) -> None:
        """Wraps an epoch; use :func:`open_published`."""
        self._store = store
        self._current: InUse | None = InUse(snapshot, queries)
        self._refreshing = threading.Lock()
        self._reranker = reranker
        self._scorer = None if reranker is None else PairScorer(reranker.engine)

    def __enter__(self) -> Self:
        """The index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Ends the engines and the epoch's protection. Calls under way fail; a second close does nothing."""
        with self._refreshing:
            current, self._current = self._current, None
        if current is not None:
            current.queries.close()
            current.snapshot.let_go()
        if self._scorer is not None:
            self._scorer.close()

    def refresh(self) -> bool:
        """Moves to the newest epoch. Calls under way finish at the epoch they began with; engines are kept.

        If the newest epoch was made by another model, that model's engine starts with the next query.

        Returns:
            Whether there was a newer epoch.

        Raises:
            RefusedError: The engine's vectors differ from the newest epoch's; the index stays where it is.
            SettingsError: The index was closed.
        """
        with self._refreshing:
            current = self._in_use()
            latest = max(self._store.epoch_numbers(), default=0)
            if latest <= current.snapshot.epoch.number:
                return False
            snapshot = _held_snapshot(current.snapshot.uri, self._store, None)
            self._current = InUse(snapshot, current.queries.for_epoch(snapshot.epoch))
            return True

    @property
    def snapshot(self) -> Snapshot:
        """The tables of the current epoch. It stays protected from pruning while the snapshot is referred to."""
        return self._in_use().snapshot

    @property
    def model(self) -> Model:
        """The model that made the vectors; queries of another model cannot be compared with them.

        Raises:
            SettingsError: The model found now has another fingerprint.
        """
        return self._in_use().queries.model

    def start(self, *, query_engine: bool = True) -> None:
        """Starts the engines now; otherwise they start with the first query, which waits for them.

        Args:
            query_engine: Whether queries will be embedded; to search by words alone they are not.

        Raises:
            EngineError: An engine cannot start.
            RefusedError: Its vectors differ from the epoch's.
        """
        if query_engine:
            self._in_use().queries.engine()
        if self._reranker is not None:
            self.score([("a question", "a document")])

    def embed(self, queries: Sequence[str], instructions: Sequence[str | None] | None = None) -> QueryVectors:
        """Full-width vectors of queries, with the model's instruction template.

        Args:
            queries: Questions.
            instructions: A task for each, ``None`` for the one the index was built with.

        Returns:
            float32, shape (len(queries), dimension), unit norm; of a late-interaction model an array of shape (tokens,
            dimension) of each query.
        """
        return self._in_use().queries.embed(_readable(queries), instructions)

    def search(  # noqa: PLR0913  # what users set, by name
        self,
        queries: Sequence[str],
        k: int = 10,
        width: int | None = None,
        where: str | None = None,
        rerank: int | None = None,
        *,
        per_document: bool = True,
        mode: Mode = "vector",
        filters: Mapping[str, Any] | None = None,
        oversample: int = 1,
        weights: tuple[float, float] = (1.0, 1.0),
    ) -> list[list[Hit]]:
        """Best documents of each query, each as its best chunk.

        Args:
            queries: Questions.
            k: Results per query.
            width: Width to search at, the widest by default.
            where: SQL condition on columns of the table, e.g. ``"kind = 'class'"``.
            rerank: Candidates per query that the reranker scores and sorts before the first ``k`` are returned.
            per_document: Whether a document is one result, its best chunk; otherwise every chunk may be one. By words
                it always is.
            mode: ``vector``, ``text`` (BM25, no engine), or ``hybrid``: both, fused by reciprocal rank.
            filters: By column a value, a list of which one is enough, a pair ``(low, high)`` whose ends count and may
                be ``None``, or ``None`` for no value. Rows are filtered before they are searched.
            oversample: Above 1, this many times the hits are found by vector and ranked again at the full width.
            weights: Of the vectors' and the words' ranking in a hybrid search.

        Returns:
            For each query its hits, best first.

        Raises:
            SettingsError: There is no such width, no full-text index, a condition or filter is not valid, or nothing
                can rerank.
        """
        now, queries = self._in_use(), _readable(queries)
        options = SearchOptions(mode, width, where, filters or {}, oversample, weights)
        modes.check(now.snapshot, options)  # refuses before an engine starts
        columns = [] if rerank is None else now.snapshot.text_columns
        vectors = now.queries.embed(queries) if options.needs_vectors else None
        count = k if rerank is None else max(k, rerank)
        found = list(modes.find(now.snapshot, queries, vectors, count, options, per_document=per_document))
        if rerank is None:
            return found
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
        if self._reranker is None or self._scorer is None:
            raise SettingsError("no reranker: name one when opening the index, or with --rerank")
        if not pairs:
            return np.empty(0, np.float32)
        batch = self._reranker.tokenizer.pairs(*zip(*pairs, strict=True))
        return self._scorer.score(batch.ids, batch.second)

    def make_engine(self, model: Model | None = None) -> Callable[[], Embedder]:
        """Makes a function that starts an engine for queries. It is small enough to be sent to workers.

        Args:
            model: Another model than the epoch's own.

        Returns:
            A function that starts the engine. It raises :class:`RefusedError` if the engine's vectors differ from the
            epoch's record.
        """
        epoch = self.epoch
        return partial(admitted, model or self.model, epoch.number, epoch.description.engine)

    def _in_use(self) -> InUse:
        """The current epoch; a call takes it once, so that its answer is of one epoch."""
        current = self._current
        if current is None:
            raise SettingsError("this index was closed: open it again to ask it")
        return current


def _held_snapshot(uri: str, store: ControlStore, number: int | None) -> Snapshot:
    """The tables of an epoch, the latest by default, protected from pruning.

    Raises:
        SettingsError: There is no epoch.
        IndexerError: That epoch's file is missing or cannot be read.
    """
    while True:
        found = store.latest_epoch() if number is None else store.epoch(number)
        if found is None:
            raise SettingsError(f"no epoch of index {store.name!r} is published at {shown(uri)}; run jobs.index first")
        snapshot = Snapshot(uri, found, EpochLease(uri, found))
        # Pruning deletes an epoch's file before anything else: if it is there now, the tags were set in time.
        if found.number in store.epoch_numbers():
            return snapshot


def _readable(texts: Sequence[str]) -> list[str]:
    """Texts without lone surrogates, which no tokenizer takes: bytes of a command line that are not UTF-8."""
    return [text.encode(errors="replace").decode() for text in texts]


def open_published(
    uri: str,
    name: str,
    *,
    epoch: int | Epoch | None = None,
    engine: Mapping[str, Any] | None = None,
    model: str | None = None,
    reranker: RerankerSettings | str | None = None,
) -> Published:
    """Opens a published epoch of an index.

    Args:
        uri: LanceDB database.
        name: Name of the index.
        epoch: Its number; the latest by default. A record is of somebody who keeps the epoch from being pruned.
        engine: vLLM engine arguments for the engines, which start when they are first needed.
        model: Directory or hub id of the index's model, if it is not where the index was made. Its digest must be the
            one that the epoch records.
        reranker: Model for :meth:`Published.score` and for reranking: its settings, or a directory or hub id.

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
    snapshot = Snapshot(uri, epoch) if isinstance(epoch, Epoch) else _held_snapshot(uri, store, epoch)
    arguments = dict(engine or {})
    if reranker and MEMORY in arguments:  # two engines of this process share one GPU
        arguments[MEMORY] = float(arguments[MEMORY]) / 2
    settings = EngineSettings(**{"replicas_per_gpu": 2 if reranker else 1} | arguments)
    chosen = RerankerSettings(name=reranker) if isinstance(reranker, str) else reranker
    return Published(
        store,
        snapshot,
        QueryModel(snapshot.epoch, settings, model),
        open_reranker(chosen, settings) if chosen else None,
    )
