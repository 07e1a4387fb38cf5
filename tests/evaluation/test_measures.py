"""Measures against formulas written down here, and what a reversed run and chance do to them."""

import math

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG

from indexer.errors import CorpusError
from indexer.evaluation.measures import MRR, NDCG, RECALL, difference, overlap, per_query
from indexer.search.fusion import fuse


def fixed() -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """30 queries with graded judgements, and a run of 150 documents that favours what is relevant."""
    random = np.random.default_rng(7)
    judgements, run = {}, {}
    for query in range(30):
        documents = [f"d{number}" for number in range(200)]
        grades = {name: int(grade) for name, grade in zip(documents, random.choice([0, 0, 0, 1, 2], 200), strict=True)}
        scores = random.normal(size=200) + [0.8 * grades[name] for name in documents]
        judgements[f"q{query}"] = grades
        run[f"q{query}"] = {documents[at]: float(scores[at]) for at in np.argsort(-scores)[:150]}
    return judgements, run


def by_hand(grades: dict[str, int], scores: dict[str, float]) -> tuple[float, float, float]:
    ranked = sorted(scores, key=lambda name: -scores[name])
    gain = sum(grades.get(name, 0) / math.log2(rank + 1) for rank, name in enumerate(ranked[:10], 1))
    ideal = sorted(grades.values(), reverse=True)[:10]
    best = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(ideal, 1))
    answers = {name for name, grade in grades.items() if grade > 0}
    first = next((1 / rank for rank, name in enumerate(ranked[:10], 1) if name in answers), 0.0)
    return gain / best, len(answers & set(ranked[:100])) / len(answers), first


def test_measures_are_those_of_their_formulas_and_of_ir_measures() -> None:
    judgements, run = fixed()
    found = per_query(judgements, run)
    assert found["query_id"].to_list() == list(judgements)
    for row in found.iter_rows(named=True):
        expected = by_hand(judgements[row["query_id"]], run[row["query_id"]])
        assert (row[NDCG], row[RECALL], row[MRR]) == pytest.approx(expected)
    theirs = ir_measures.calc_aggregate([nDCG @ 10, R @ 100, RR @ 10], judgements, run)
    ours = [float(np.mean(found[name].to_numpy())) for name in (NDCG, RECALL, MRR)]
    assert ours == pytest.approx([theirs[nDCG @ 10], theirs[R @ 100], theirs[RR @ 10]])


def test_equal_scores_are_measured_in_the_order_that_readers_see() -> None:
    """Whatever the documents are called."""
    for first, second in (("a", "b"), ("b", "a")):
        fused = fuse([[first], [second]], (1.0, 1.0))
        assert [item.name for item in fused] == [first, second]
        (row,) = per_query({"q": {first: 1}}, {"q": {item.name: item.score for item in fused}}).to_dicts()
        assert (row[NDCG], row[MRR]) == (1.0, 1.0)


def test_a_reversed_run_scores_low() -> None:
    judgements, run = fixed()
    worst = {query: {name: -score for name, score in documents.items()} for query, documents in run.items()}
    good, bad = (float(np.mean(per_query(judgements, one)[NDCG].to_numpy())) for one in (run, worst))
    assert bad < good / 2


def test_queries_without_results_count_as_nothing_found_and_empty_runs_are_refused() -> None:
    judgements, run = fixed()
    one = {"q3": run["q3"], "q4": {}}
    found = dict(per_query(judgements, one).select("query_id", NDCG).iter_rows())
    assert found["q3"] > 0
    assert [value for query, value in found.items() if query != "q3"] == [0.0] * 29
    for nothing in ({}, {"other": {"d1": 1.0}}, {"q3": {}}):
        with pytest.raises(CorpusError, match="no result for any of 30 judged queries"):
            per_query(judgements, nothing)


@pytest.mark.heavy
def test_confidence_intervals_cover_on_resampled_data() -> None:
    """Of 200 samples of 100 queries whose mean difference is known, about 95 % of the intervals hold it."""
    random = np.random.default_rng(3)
    covered = beyond = 0
    for _ in range(200):
        before = random.beta(2, 2, 100)
        change = np.where(random.random(100) < 0.3, random.normal(0.05, 0.2, 100), 0.0)
        found = difference(before + change, before)
        covered += found.low <= 0.3 * 0.05 <= found.high
        same = difference(before + random.normal(0, 0.1, 100), before)
        beyond += same.is_beyond_chance
    assert 180 <= covered <= 200
    assert beyond <= 20


def test_no_difference_is_no_difference() -> None:
    found = difference([0.5, 0.2, 1.0], [0.5, 0.2, 1.0])
    assert (found.mean, found.low, found.high, found.is_beyond_chance) == (0.0, 0.0, 0.0, False)


def test_overlap_is_of_the_ten_best_of_exact_search() -> None:
    exact = {"q": {f"d{number}": -float(number) for number in range(50)}}
    run = {"q": {f"d{number}": -float(number) for number in range(4, 60)}}
    assert overlap(exact, exact) == 1.0
    assert overlap(run, exact) == 0.6
