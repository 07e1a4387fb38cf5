"""What an adaptation would do and cost, before anything is done: pairs, steps, tokens, least time and money."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.adapting import weights
from indexer.adapting.sources import Texts
from indexer.adapting_settings import AdaptSettings
from indexer.evaluation import judgements, known_items
from indexer.search.published import Published, open_published
from indexer.search.query_vectors import refuse_token_vectors

SAMPLE = 200
"""Documents whose tokens are counted."""

WRITTEN_TOKENS = 16
"""Tokens of a query that is not written yet."""

TRAINED, EMBEDDED = 8, 2
"""Operations per weight and token: forward twice, since gradients are cached, and backward; or forward once."""

TABLES = ("embed_tokens", "word_embeddings", "position_embeddings", "tok_embeddings")
"""Names in weights that are looked up and not multiplied."""

SIDE = 1024
"""Side of the matrices that are multiplied to time this machine."""

TIMED_SECONDS = 0.3


@dataclass(frozen=True)
class _Lengths:
    """Mean tokens of a query, and of a document in training and in the index."""

    query: float
    trained: float
    embedded: float


def plan(settings: AdaptSettings) -> dict[str, Any]:
    """Counts what a run would train and embed; writes nothing and starts no engine.

    Args:
        settings: The settings.

    Returns:
        Counts, JSON-ready. ``least_seconds`` is what the arithmetic takes at the rate of a matrix product on this
        machine: padding, attention and the start of engines come on top.

    Raises:
        SettingsError: The settings contradict the index.
        CorpusError: Queries or judgements cannot be used.
    """
    published = open_published(settings.index.uri, settings.index.name, engine=settings.engine.arguments)
    refuse_token_vectors(published.epoch, "jobs.adapt")
    names = known_items.drawn(published.snapshot, SAMPLE)
    texts = Texts(published, settings.titles.query if settings.titles else None)
    lengths = _lengths(settings, published, texts, names)
    pairs, tests = _counts(settings, published)
    train = settings.train
    step = train.batch * (lengths.query + lengths.trained * (1 + settings.negatives.per_pair))
    documents = published.state().rows
    validated = min(documents, settings.gates.validation_documents) * len(settings.merge.shares)
    searched = validated * (len(settings.merge.shares) > 1) + min(documents, settings.gates.documents)
    embedded = pairs * (lengths.query + lengths.trained) + searched * lengths.embedded + tests * lengths.query
    weight = _multiplied(published.model.checkpoint.path)
    seconds = weight * (TRAINED * train.steps * step + EMBEDDED * embedded) / _operations_per_second()
    price = settings.run.hour_price
    return {
        "pairs": pairs,
        "test_queries": tests,
        "steps": train.steps,
        "passes": round(train.steps * train.batch / max(pairs, 1), 1),
        "tokens_trained": round(train.steps * step),
        "tokens_embedded": round(embedded),
        "least_seconds": math.ceil(seconds),
        "least_cost": None if price is None else round(price * seconds / 3600, 2),
    }


def in_words(found: dict[str, Any]) -> str:
    """The plan for a person."""
    cost = "" if found["least_cost"] is None else f", {found['least_cost']:,.2f} at run.hour_price"
    return "\n".join(
        [
            f"{found['pairs']:,} pairs at most to train and validate, {found['test_queries']:,} queries to judge",
            f"{found['steps']:,} steps, {found['passes']:,.1f} times each pair, {found['tokens_trained']:,} tokens",
            f"{found['tokens_embedded']:,} tokens embedded to search, validate and judge",
            f"at least {found['least_seconds']:,} s on this machine{cost}; padding and engines' starts come on top",
        ]
    )


def _lengths(settings: AdaptSettings, published: Published, texts: Texts, names: Sequence[str]) -> _Lengths:
    """Mean tokens of a query, of a document as it is trained on, and of a whole one."""
    tokenizer = published.model.tokenizer
    limit = settings.train.max_tokens or published.model.max_tokens
    whole = tokenizer.documents([text or "" for text in published.texts(names)]).ids
    documents = tokenizer.truncated([text for text in texts.of(names) if text])
    query = float(WRITTEN_TOKENS)
    if texts.query is not None:
        given = [words for words, _ in known_items.parts(published.snapshot, names, texts.query) if words]
        query = tokenizer.queries(given).lengths.mean() if given else query
    return _Lengths(float(query), float(documents.lengths.clip(max=limit).mean()), float(whole.lengths.mean()))


def _counts(settings: AdaptSettings, published: Published) -> tuple[int, int]:
    """Pairs that may be trained on, and queries that judge."""
    judged = None
    if settings.queries is not None and settings.judgements is not None:
        judged = judgements.read(settings.queries, settings.judgements)
    share = settings.split.test
    if judged is not None and settings.trains_on_judgements:
        answers = sum(grade > 0 for grades in judged.judgements.values() for grade in grades.values())
        return round(answers * (1 - share)), round(len(judged.texts) * share)
    source = settings.titles or settings.synthetic
    drawn = min(source.count if source else 0, published.state().rows)
    return (drawn, len(judged.texts)) if judged else (round(drawn * (1 - share)), round(drawn * share))


def _multiplied(path: str) -> int:
    """Weights that every token is multiplied with."""
    from safetensors import safe_open

    count = 0
    for name in weights.files(path):
        with safe_open(str(Path(path) / name), framework="pt") as stream:
            for key in stream.keys():  # noqa: SIM118  # safetensors' file is no mapping
                if not any(table in key for table in TABLES):
                    count += math.prod(stream.get_slice(key).get_shape())
    return count


def _operations_per_second() -> float:
    """Floating-point operations per second of a matrix product on the device that trains here."""
    import torch

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    left = torch.ones((SIDE, SIDE), device=device, dtype=dtype)
    float((left @ left)[0, 0])
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < TIMED_SECONDS:
        float((left @ left)[0, 0])
        done += 1
    return 2 * SIDE**3 * done / (time.perf_counter() - start)
