"""What a quantised model costs: its vectors beside those of the index, and the change in nDCG@10 with its interval."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from indexer.cluster.connection import Cluster
from indexer.errors import SettingsError
from indexer.evaluation import known_items, measures
from indexer.evaluation.judgements import Questions
from indexer.evaluation.measures import NDCG
from indexer.evaluation.remote_engine import RemoteEngine
from indexer.evaluation.run import make_questions
from indexer.inference.model import Model, open_model, open_reranker
from indexer.progress import say
from indexer.search.published import Published, open_published
from indexer.search.query_vectors import refuse_token_vectors
from indexer.settings import EvaluateSettings

DOCUMENTS = 2000
"""Documents embedded by both models, besides those that answer a query."""


def compare(
    settings: EvaluateSettings,
    quantization: str,
    checkpoint: str | None = None,
    model: Model | None = None,
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Embeds a sample of the index and the queries with the index's model and with the same one quantised.

    Args:
        settings: Settings of an evaluation; they name the index and the source of queries.
        quantization: As ``model.quantization``.
        checkpoint: The quantised checkpoint, hub id or directory; ``None`` where vLLM quantises the index's own.
        model: Another model in place of the quantised one.
        cluster: A connected cluster, which stays connected.

    Returns:
        Cosines of documents and the difference of nDCG@10 with its interval of 95 %, JSON-ready.

    Raises:
        SettingsError: The index is quantised itself, its payload does not hold the texts, or there is no such
            checkpoint.
        EngineError: vLLM has no such quantisation here.
    """
    published = open_published(settings.index.uri, settings.index.name, engine=settings.engine.arguments)
    refuse_token_vectors(published.epoch, "jobs.evaluate")
    plain = published.model
    if plain.settings.quantization is not None:
        raise SettingsError(
            f"the index was made with {plain.settings.quantization}: there is nothing exact to compare with"
        )
    other = model or _quantised(plain, quantization, checkpoint)
    reranker = open_reranker(settings.reranker, settings.engine) if settings.reranker else None
    with ExitStack() as stack:
        cluster = cluster or stack.enter_context(Cluster(settings.cluster, settings.engine.replicas_per_gpu))
        questions = make_questions(settings, published, reranker, cluster)
        texts = _texts(published, questions)
        say(f"{len(texts):,} documents and {len(questions.texts):,} queries, embedded twice")
        exact, quantised = (_vectors(settings, cluster, one, texts, questions) for one in (plain, other))
    cosines = (exact[0] * quantised[0]).sum(axis=1)
    rows = [list(texts)[row] for row in plain.tokenizer.documents(list(texts.values())).row]
    before, after = (_ndcg(queries, documents, rows, questions) for documents, queries in (exact, quantised))
    return {
        "quantization": quantization,
        "documents": len(texts),
        "queries": len(questions.texts),
        "cosine": {"least": _rounded(cosines.min()), "median": _rounded(np.median(cosines))},
        "ndcg_at_10": {"exact": _rounded(before.mean()), "quantised": _rounded(after.mean())},
        "difference": {name: _rounded(value) for name, value in asdict(measures.difference(after, before)).items()},
    }


def _quantised(plain: Model, quantization: str, checkpoint: str | None) -> Model:
    """The index's model in another precision, or the checkpoint that has it."""
    if checkpoint is None:
        return replace(plain, settings=plain.settings.model_copy(update={"quantization": quantization}))
    its_own: dict[str, Any] = {"name": checkpoint, "revision": None, "sha256": {}, "quantization": quantization}
    return open_model(plain.settings.model_copy(update=its_own), plain.engine_settings)


def _texts(published: Published, questions: Questions) -> dict[str, str]:
    """Documents that answer a query, as they are asked for, and others drawn from the index."""
    answers = {name for judged in questions.judgements.values() for name in judged}
    names = sorted(answers | set(known_items.drawn(published.snapshot, DOCUMENTS)))
    found = {name: text for name, text in zip(names, published.texts(names), strict=True) if text}
    return found | dict(questions.altered or {})


def _vectors(
    settings: EvaluateSettings, cluster: Cluster, model: Model, texts: dict[str, str], questions: Questions
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the documents' chunks and of the queries."""
    with RemoteEngine(cluster, model.engine, "embed", settings.run.progress) as engine:
        documents = engine.embed(model.tokenizer.documents(list(texts.values())).ids)
        return documents, engine.embed(model.tokenizer.queries(list(questions.texts.values())))


def _ndcg(queries: np.ndarray, documents: np.ndarray, rows: Sequence[str], questions: Questions) -> np.ndarray:
    """nDCG@10 of every query by exact search; of a document's chunks the nearest counts."""
    asked = zip(questions.texts, queries, strict=True)
    run = {name: measures.nearest(documents @ vector, rows, questions.themselves & {name}) for name, vector in asked}
    return np.asarray(measures.per_query(questions.judgements, run)[NDCG].to_numpy(), np.float64)


def _rounded(value: Any) -> float:
    return round(float(value), 4)
