"""Filters pairs and finds hard negatives for them, by the index's own search."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer import schema
from indexer.adapting.pairs import Pair, answers, key, names, trained
from indexer.adapting.sources import Texts
from indexer.adapting.splitting import HeldOut, held_out
from indexer.adapting_settings import AdaptSettings
from indexer.evaluation.synthetic import Score
from indexer.inference import matryoshka
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.sequences import TokenSequences
from indexer.search.published import Published
from indexer.storage import tables

EQUAL = 0.9999
"""Cosine of two published vectors from which on their documents count as the same."""

SCORED = 4
"""Candidates that the reranker reads for each negative wanted."""

Embed = Callable[[TokenSequences], np.ndarray]


@dataclass(frozen=True)
class Searched:
    """Pairs, what the index finds for their queries, and the vectors of their texts.

    Attributes:
        pairs: The pairs that are to be trained on.
        queries: float32, shape (pairs, dimension): vector of each query.
        documents: float32, shape (pairs, dimension): vector of each document's text as it is trained on.
        hits: For each pair the cosines of the documents found, nearest first.
    """

    pairs: list[Pair]
    queries: np.ndarray
    documents: np.ndarray
    hits: list[dict[str, float]]

    def cosines(self, width: int) -> np.ndarray:
        """float32, shape (pairs,): cosine of each query and its document at a width."""
        pairs = matryoshka.cut(self.queries, width) * matryoshka.cut(self.documents, width)
        return np.asarray(pairs.sum(axis=1), np.float32)


@dataclass(frozen=True)
class Miner:
    """Filters pairs and gives them negatives.

    Attributes:
        settings: The settings.
        texts: The index's documents.
        score: Gives the reranker's scores of queries with documents, where there is one.
    """

    settings: AdaptSettings
    texts: Texts
    score: Score | None

    @property
    def _published(self) -> Published:
        return self.texts.published

    def search(self, pairs: Sequence[Pair], tokenizer: EmbedTokenizer, embed: Embed) -> Searched:
        """Searches the index for the query of each pair that is to be trained on.

        Args:
            pairs: All pairs, split.
            tokenizer: Makes token ids as in training.
            embed: Gives the published model's vectors of token ids.
        """
        chosen = trained(pairs)
        ids = TokenSequences.join(
            [
                tokenizer.queries([pair.query for pair in chosen]),
                tokenizer.truncated([pair.document for pair in chosen]),
            ]
        )
        queries, documents = np.split(embed(ids), 2)
        wanted = self.settings.negatives
        depth = max(wanted.depth + wanted.above_rank + 1, (self.settings.filter.keep_rank or 0) + 1)
        found = self._published.nearest(queries, depth, columns=[])
        metric = self._published.epoch.description.layout.metric
        hits = [_best([(hit.id, _cosine(hit.score, metric)) for hit in one]) for one in found]
        return Searched(chosen, queries, documents, hits)

    def mine(self, pairs: Sequence[Pair], found: Searched) -> tuple[list[Pair], dict[str, int]]:
        """Filters the pairs that were searched for and gives them negatives.

        Args:
            pairs: All pairs, split.
            found: What :meth:`search` gave for them.

        Returns:
            All pairs in their order, those that fell out with the reason, and counts by reason.
        """
        measured = [replace(pair, dropped=self._reason(pair)) for pair in self._measured(found)]
        candidates = [self._candidates(pair, hits) for pair, hits in zip(measured, found.hits, strict=True)]
        ready = iter(self._with_negatives(pairs, measured, candidates))
        mined = [next(ready) if pair.is_trained_on else pair for pair in pairs]
        counts = Counter(pair.dropped for pair in mined if pair.dropped)
        wanting = sum(not pair.negatives for pair in trained(mined)) if self.settings.negatives.per_pair else 0
        return mined, {**counts, **({"pairs without a hard negative": wanting} if wanting else {})}

    def _measured(self, found: Searched) -> list[Pair]:
        """Pairs with the cosine, the reranker's score and the rank of their own document."""
        pairs = found.pairs
        scores: list[float | None] = [pair.score for pair in pairs]
        if self.score is not None and pairs:
            scores = [*self.score([pair.query for pair in pairs], [pair.document for pair in pairs]).tolist()]
        cosines = found.cosines(self._published.state().width).tolist()
        return [
            replace(pair, cosine=cosine, score=score, rank=_rank(pair.document_id, cosine, hits))
            for pair, cosine, score, hits in zip(pairs, cosines, scores, found.hits, strict=True)
        ]

    def _reason(self, pair: Pair) -> str:
        """Why a pair is not trained on; empty if it is."""
        bounds = self.settings.filter
        if not pair.document:
            return "pairs whose document is not in the index"
        if bounds.keep_rank is not None and (pair.rank or 0) > bounds.keep_rank:
            return "pairs whose document is below filter.keep_rank"
        if (pair.cosine or 0.0) < bounds.least_cosine:
            return "pairs below filter.least_cosine"
        if pair.score is not None and pair.score < bounds.least_score:
            return "pairs below filter.least_score"
        return ""

    def _candidates(self, pair: Pair, hits: dict[str, float]) -> list[str]:
        """Ids of documents that may be negatives of a pair by their rank and cosine, nearest first."""
        wanted = self.settings.negatives
        if pair.dropped or not wanted.per_pair:
            return []
        bound = (1 - wanted.margin) * (pair.cosine or 0.0)
        others = [name for name in hits if name != pair.document_id][wanted.above_rank :]
        return [name for name in others if hits[name] < bound][: SCORED * wanted.per_pair]

    def _with_negatives(
        self, pairs: Sequence[Pair], measured: Sequence[Pair], candidates: Sequence[Sequence[str]]
    ) -> Iterator[Pair]:
        """Pairs with texts of their negatives: first those that somebody judged, then those that were found."""
        ids = sorted({name for one in candidates for name in one})
        texts = dict(zip(ids, self.texts.of(ids), strict=True))
        vectors = self._vectors([*ids, *(pair.document_id for pair in measured)])
        out, known = held_out(pairs), answers(pairs)
        judged = _judged_negatives(pairs, out)
        kept = [
            [
                name
                for name in one
                if not out.has(name, texts[name])
                and _is_wrong(pair, name, texts[name], known[key(pair.query)], vectors)
            ]
            for pair, one in zip(measured, candidates, strict=True)
        ]
        if self.score is not None:
            kept = self._unanswering(measured, kept, texts)
        for pair, one in zip(measured, kept, strict=True):
            negatives = judged.get(key(pair.query), {}) | {name: texts[name] for name in one}
            yield replace(pair, negatives=dict([*negatives.items()][: self.settings.negatives.per_pair]))

    def _unanswering(
        self, pairs: Sequence[Pair], candidates: list[list[str]], texts: dict[str, str]
    ) -> list[list[str]]:
        """The candidates that do not answer the query by the reranker."""
        flat = [(pair.query, texts[name]) for pair, one in zip(pairs, candidates, strict=True) for name in one]
        if self.score is None or not flat:
            return candidates
        scores = iter(self.score([query for query, _ in flat], [text for _, text in flat]).tolist())
        most = self.settings.negatives.most_score
        return [[name for name in one if next(scores) <= most] for one in candidates]

    def _vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """First vector of each document from the narrowest table."""
        rows = self._published.rows(sorted(set(ids)), [schema.ID, schema.CHUNK, schema.VECTOR])
        vectors = matryoshka.cut(tables.to_matrix(rows[schema.VECTOR]), rows[schema.VECTOR].type.list_size)
        found = zip(rows[schema.ID].to_pylist(), rows[schema.CHUNK].to_pylist(), vectors, strict=True)
        return {name: vector for name, chunk, vector in found if chunk == 0}


def _cosine(score: float, metric: str) -> float:
    """Cosine of unit vectors by a hit's score; LanceDB's l2 is the squared distance."""
    return 1 + score / 2 if metric == "l2" else score


def _best(hits: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The nearest chunk of each document, nearest document first."""
    found: dict[str, float] = {}
    for name, cosine in hits:
        found.setdefault(name, cosine)
    return found


def _rank(document_id: str, cosine: float, hits: dict[str, float]) -> int:
    """Rank of a document's text among the other documents found."""
    return 1 + sum(name != document_id and other > cosine for name, other in hits.items())


def _judged_negatives(pairs: Sequence[Pair], out: HeldOut) -> dict[str, dict[str, str]]:
    """Documents that somebody judged not to answer, by the query's key, without those that are held out."""
    found: dict[str, dict[str, str]] = {}
    for pair in pairs:
        if pair.split == "train" and pair.grade <= 0 and pair.document and not out.has(pair.document_id, pair.document):
            found.setdefault(key(pair.query), {})[pair.document_id] = pair.document
    return found


def _is_wrong(pair: Pair, name: str, text: str, answers: frozenset[str], vectors: dict[str, np.ndarray]) -> bool:
    """Whether a document is none of the query's answers, nor an equal text or an equal vector of the pair's."""
    if not text or not names(name, text).isdisjoint(answers):
        return False
    ours, theirs = vectors.get(pair.document_id), vectors.get(name)
    return ours is None or theirs is None or float(ours @ theirs) < EQUAL
