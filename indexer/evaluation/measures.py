"""How good results are: nDCG@10, recall@100 and MRR@10 per query, and whether a difference is more than chance."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np
import polars as pl
from ir_measures import RR, R, nDCG

from indexer.errors import CorpusError

Run = Mapping[str, Mapping[str, float]]
"""Scores of documents by query id, then document id; of equal scores the first comes first, as readers see them."""

NDCG, RECALL, MRR = "nDCG@10", "recall@100", "MRR@10"

MEASURES: Mapping[str, Any] = {NDCG: nDCG @ 10, RECALL: R @ 100, MRR: RR @ 10}
"""As ir-measures computes them; recall counts every document with a grade above 0."""

DEPTH = 100

NEAREST = 10

CONFIDENCE = 0.95

RESAMPLES = 5_000

RESAMPLES_AT_ONCE = 500

SEED = 0


def per_query(judgements: Mapping[str, Mapping[str, int]], run: Run) -> pl.DataFrame:
    """The measures of every judged query.

    Args:
        judgements: Grades of documents by query id, then document id.
        run: Results; a query without any counts as 0.

    Returns:
        Columns ``query_id`` and one of float64 for each of :data:`MEASURES`, in the order of the judgements.

    Raises:
        CorpusError: No judged query has a result: nothing was measured.
    """
    results = {query: _places(documents) for query, documents in run.items() if documents and query in judgements}
    if not results:
        raise CorpusError(f"no result for any of {len(judgements)} judged queries")
    names = {str(measure): name for name, measure in MEASURES.items()}
    grades = {query: dict(documents) for query, documents in judgements.items()}
    rows: dict[str, dict[str, float]] = {query: dict.fromkeys(MEASURES, 0.0) for query in judgements}
    for found in ir_measures.iter_calc(list(MEASURES.values()), grades, results):
        rows[found.query_id][names[str(found.measure)]] = float(found.value)
    return pl.DataFrame([{"query_id": query, **values} for query, values in rows.items()])


def nearest(cosines: np.ndarray, owners: Sequence[str], hidden: Set[str]) -> dict[str, float]:
    """The best documents of one query, each with its best chunk's cosine, nearest first.

    Args:
        cosines: Cosine of each chunk, float32, shape (chunks,).
        owners: Each chunk's document.
        hidden: Documents that are no results.
    """
    best: dict[str, float] = {}
    for at in np.argsort(-cosines, kind="stable"):
        if owners[at] not in hidden:
            best.setdefault(owners[at], float(cosines[at]))
        if len(best) == DEPTH:
            break
    return best


def _places(documents: Mapping[str, float]) -> dict[str, float]:
    """Scores without ties. Measures break these by id, trec_eval's from its end and RR@10 from its beginning."""
    return {name: -float(place) for place, name in enumerate(_sorted(documents))}


def _sorted(documents: Mapping[str, float]) -> list[str]:
    """Documents, best first."""
    return sorted(documents, key=lambda name: -documents[name])


@dataclass(frozen=True)
class Difference:
    """Mean difference of a measure between two configurations on the same queries.

    Attributes:
        mean: The difference.
        low: Lower end of its confidence interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """The mean with its interval."""
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def difference(values: Sequence[float] | np.ndarray, reference: Sequence[float] | np.ndarray) -> Difference:
    """Paired bootstrap of the mean difference (Sakai 2006, "Evaluating evaluation metrics based on the bootstrap").

    Args:
        values: A measure of each query, float64, shape (queries,).
        reference: The same of another configuration, in the same order.

    Returns:
        The mean of ``values - reference`` with its percentile interval of 95 %.
    """
    # Here and not above: it takes a second.
    from scipy.stats import bootstrap

    changes = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    mean = float(changes.mean())
    if len(changes) == 1 or not np.ptp(changes):
        return Difference(mean, mean, mean)
    interval = bootstrap(
        (changes,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=RESAMPLES_AT_ONCE,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Difference(mean, float(interval.low), float(interval.high))


def overlap(run: Run, exact: Run) -> float:
    """Mean share of the 10 best documents of exact search that a run has among its own 10 best."""
    shares = []
    for query, documents in exact.items():
        wanted, found = _best(documents), _best(run.get(query, {}))
        if wanted:
            shares.append(len(wanted & found) / len(wanted))
    return float(np.mean(shares)) if shares else 0.0


def _best(documents: Mapping[str, float]) -> set[str]:
    return set(_sorted(documents)[:NEAREST])
