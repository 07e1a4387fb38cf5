"""Two nights of a late-interaction model and a search, with vLLM in Ray's actors, beside Transformers and NumPy."""

from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest

from indexer.indexing import run as indexing_run
from indexer.search.published import open_published
from tests.support.fakes import words, write
from tests.support.token_vectors import max_sim, opened, reference_vectors, settings, stored

LEAST_COSINE = 0.9999

QUERIES = ["document 7 of seed 0 speaks of 433", "something else, of other words", "Who speaks?"]


def answered(uri: str) -> list[list[tuple[tuple[str, int], float]]]:
    """Keys and scores of each query's hits, by a real engine."""
    with open_published(uri, "docs", engine={"enforce_eager": True}) as published:
        return [[((hit.id, hit.chunk), hit.score) for hit in hits] for hits in published.search(QUERIES, 8)]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_real_engines_store_and_find_token_vectors(
    tmp_path: Path, engine_process: Executor, reference_process: Executor
) -> None:
    texts = dict(words(25))
    write(tmp_path / "corpus" / "a.parquet", list(texts.items()))
    given = settings(tmp_path, engine={"enforce_eager": True}, cluster={"workers": 1})
    indexing_run.run(given)
    texts["doc-00003"] = "something else, of other words!"
    write(tmp_path / "corpus" / "a.parquet", list(texts.items()))
    summary = indexing_run.run(given)
    assert (summary["epoch"], summary["changed"], summary["indexed"]) == (2, 1, 1)
    assert min(summary["gates"][f"gates.{name}_cosine"] for name in ("sampled", "published")) > LEAST_COSINE

    tokenizer = opened(given).model.tokenizer
    ids, queries = tokenizer.documents(list(texts.values())).ids, tokenizer.queries(QUERIES)
    reference = reference_process.submit(reference_vectors, given.model.name, [*ids.tolist(), *queries.tolist()])
    found = np.split(reference.result(), np.cumsum([*ids.lengths, *queries.lengths])[:-1])
    kept = np.split(tokenizer.stored(ids), np.cumsum(ids.lengths)[:-1])
    wanted = {(name, 0): vectors[mask] for name, vectors, mask in zip(texts, found, kept, strict=False)}
    rows = stored(given)
    assert rows.keys() == wanted.keys()
    for key, vectors in wanted.items():
        assert (rows[key] * vectors).sum(axis=1).min() >= LEAST_COSINE

    answers = engine_process.submit(answered, given.index.uri).result()
    for hits, query in zip(answers, found[len(texts) :], strict=True):
        scores = max_sim(query, wanted)
        assert [key for key, _ in hits] == sorted(scores, key=lambda key: -scores[key])[:8]
        assert [score for _, score in hits] == pytest.approx([scores[key] for key, _ in hits], abs=1e-3)
    assert [hits[0][0] for hits in answers[:2]] == [("doc-00007", 0), ("doc-00003", 0)]
