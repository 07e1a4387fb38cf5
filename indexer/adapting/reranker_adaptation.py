"""The adaptation of a reranker: trained on the same pairs, judged by reordering what the index finds."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import polars as pl

from indexer.adapting import judge, outcome
from indexer.adapting.adaptation import Adaptation
from indexer.adapting.batches import first_pairs
from indexer.adapting.gate import Measured
from indexer.adapting.judge import Collection, Vectors
from indexer.adapting.mining import Searched
from indexer.adapting.pairs import Pair
from indexer.adapting.training import FirstBatch
from indexer.evaluation import measures
from indexer.evaluation.synthetic import Score
from indexer.inference.model import Reranker, open_reranker
from indexer.settings import RerankerSettings

REORDERED = 100
"""Documents of a query that the rerankers order."""


class RerankerAdaptation(Adaptation):
    """An adaptation of the reranker, judged at the index's widest width only: that is where candidates come from."""

    @property
    def base(self) -> Reranker:
        """The model that is adapted: the reranker."""
        return self.given_reranker

    @cached_property
    def trained_as(self) -> Reranker:
        """The base with the limit of tokens that training has."""
        base = self.base
        limit = min(self.settings.train.max_tokens or base.max_tokens, base.max_tokens)
        wanted: RerankerSettings = base.settings.model_copy(update={"max_tokens": limit})
        return Reranker(wanted, base.engine_settings, base.revision)

    @property
    def judge_of_pairs(self) -> Score | None:
        """None: a reranker that judged its own pairs would learn what it knows."""
        return None

    def first_batch(self, pairs: Sequence[Pair], found: Searched) -> FirstBatch:  # noqa: ARG002
        """What the engine gives for the first batch: scores of its pairs."""
        chosen = first_pairs(pairs, self.settings.train.batch, self.settings.split.seed)
        queries, documents = [pair.query for pair in chosen], [pair.document for pair in chosen]
        scores = self.score(self.trained_as, queries, documents)
        return FirstBatch(self.trained_as.tokenizer.pairs(queries, documents).ids, scores[:, None])

    @cached_property
    def _test_candidates(self) -> dict[str, list[str]]:
        """What the index finds for each test query, best first: the same for both rerankers."""
        return self._candidates(self.test)

    @cached_property
    def _validation_candidates(self) -> dict[str, list[str]]:
        """What the index finds for each validation query, best first: the same for every share."""
        return self._candidates(self.validation)

    def measured(self, path: Path) -> dict[int, pl.DataFrame]:
        """Measures of every validation query by the reranker in a directory."""
        return {self.widths[0]: self._reordered(self._reranker(path), self.validation, self._validation_candidates)}

    def judged_base(self) -> Measured:
        """The base on the candidates of the test queries."""
        return self._judged_by(self.base)

    def judged(self, path: Path) -> Measured:
        """The reranker in a directory on the same candidates."""
        return self._judged_by(self._reranker(path))

    @cached_property
    def _guard_candidates(self) -> dict[str, list[str]]:
        """What the index's model finds for each of the guard's queries, best first; none without a guard."""
        if self.guard is None:
            return {}
        with self.engine(self.published.make_engine()) as engine:
            found = judge.vectors(self.published.model, engine, self.guard)
        return self._first(self.guard, found)

    def _judged_by(self, reranker: Reranker) -> Measured:
        widths = {self.widths[0]: self._reordered(reranker, self.test, self._test_candidates)}
        if self.guard is None:
            return Measured(widths)
        return Measured(widths, self._reordered(reranker, self.guard, self._guard_candidates))

    def _reranker(self, path: Path) -> Reranker:
        settings = outcome.model_settings(self.settings, self.base, path)
        return open_reranker(settings, self.settings.engine)

    def _candidates(self, collection: Collection) -> dict[str, list[str]]:
        """What the index finds for each query, best first."""
        with self.engine(self.published.make_engine()) as engine:
            found = judge.published_vectors(self.published, engine, collection)
        return self._first(collection, found)

    def _first(self, collection: Collection, found: Vectors) -> dict[str, list[str]]:
        """The documents nearest to each query, best first."""
        run = judge.ranked(collection.questions, found, self.widths[0])
        return {name: list(documents)[:REORDERED] for name, documents in run.items()}

    def _reordered(self, reranker: Reranker, collection: Collection, found: dict[str, list[str]]) -> pl.DataFrame:
        """Measures of each query with its hits in the order of the reranker."""
        rows = [(name, document) for name, documents in found.items() for document in documents]
        queries = [collection.questions.texts[name] for name, _ in rows]
        scores = self.score(reranker, queries, [collection.texts[document] for _, document in rows])
        run: dict[str, dict[str, float]] = {}
        for (name, document), score in zip(rows, scores.tolist(), strict=True):
            run.setdefault(name, {})[document] = score
        return measures.per_query(collection.questions.judgements, run)
