"""Reranking of candidates: a pair of query and chunk is scored once, for whatever configurations find it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from indexer.evaluation.remote_engine import RemoteEngine
from indexer.evaluation.trial import Latency, Trial
from indexer.inference.model import Reranker
from indexer.progress import Stopwatch
from indexer.search.hits import Hit

TIMED = 10
"""Queries whose candidates are reranked one query after the other, as a reader waits for them."""

PairKey = tuple[str, str, int]
"""Query, document id and chunk."""


@dataclass
class Rerank:
    """A reranker, what it scored so far, and how long it takes.

    Attributes:
        reranker: Gives the tokenizer.
        scorer: Its engines.
        candidates: Results per query that it orders.
        scores: Every pair's score.
        seconds: Seconds per query of all engines together, in batches.
        waits: Seconds of single queries.
    """

    reranker: Reranker
    scorer: RemoteEngine
    candidates: int
    scores: dict[PairKey, float] = field(default_factory=dict)
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    def order(self, trial: Trial, queries: Sequence[str], found: Sequence[Sequence[Hit]]) -> list[list[Hit]]:
        """The candidates in the reranker's order."""
        candidates = [hits[: self.candidates] for hits in found]
        pairs = [(query, hit.id, hit.chunk) for query, hits in zip(queries, candidates, strict=True) for hit in hits]
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self.scores]
        if missing:
            took = self._score(trial, missing)
            # The first configuration asks for all pairs of a query, later ones for a few more of other queries.
            self.seconds = self.seconds or took * len(pairs) / len(missing) / len(queries)
        if not self.waits:
            self._time(trial, [(query, hits) for query, hits in zip(queries, candidates, strict=True) if hits][:TIMED])
        return [
            [replace(hit, score=self.scores[query, hit.id, hit.chunk]) for hit in hits]
            for query, hits in zip(queries, candidates, strict=True)
        ]

    def added_to(self, latency: Latency) -> Latency:
        """The latency of searching and reranking."""
        p50, p95 = np.percentile(self.waits or [0.0], [50, 95])
        rate = 1 / (1 / latency.queries_per_second + self.seconds)
        return Latency(latency.p50 + float(p50), latency.p95 + float(p95), rate)

    def _score(self, trial: Trial, pairs: Sequence[PairKey]) -> float:
        """Scores pairs; returns the seconds that the engines took."""
        texts = trial.opened.texts([name for _, name, _ in pairs], [chunk for *_, chunk in pairs])
        batch = self.reranker.tokenizer.pairs([query for query, *_ in pairs], [text or "" for text in texts])
        watch = Stopwatch()
        with watch("score"):
            values = self.scorer.score(batch).tolist()
        self.scores |= dict(zip(pairs, values, strict=True))
        return watch.seconds["score"]

    def _time(self, trial: Trial, asked: Sequence[tuple[str, Sequence[Hit]]]) -> None:
        """Times single queries; what they score is known already."""
        for query, hits in asked:
            self.waits.append(self._score(trial, [(query, hit.id, hit.chunk) for hit in hits]))
