"""A model that costs nothing, or only sleeps, so that the work around it is left."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from indexer.indexing.embed import EmbedPipeline
from indexer.indexing.job import Target
from indexer.inference.embed_inputs import TokenBatch
from indexer.inference.model import Model


class OneToken:
    """Tokenizer that takes no time: every document is one chunk of one token."""

    def documents(self, texts: Sequence[str]) -> TokenBatch:
        """One token per text."""
        rows = np.arange(len(texts), dtype=np.int32)
        nothing = np.zeros(len(texts), np.int32)
        ends = np.array([len(text) for text in texts], np.int32)
        return TokenBatch([[0]] * len(texts), rows, nothing, nothing, ends, np.zeros(len(texts), bool), [])


class Dice:
    """Engine that gives one and the same unit vector, so that a second look finds it again."""

    def __init__(self, dimension: int, seconds_per_document: float) -> None:
        """Draws the vector."""
        drawn = np.random.default_rng(0).standard_normal(dimension).astype(np.float32)
        self.dimension = dimension
        self._vector = drawn / np.linalg.norm(drawn)
        self._seconds = seconds_per_document

    def embed(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Unit vectors, float32, shape (len(token_ids), dimension)."""
        time.sleep(self._seconds * len(token_ids))
        return np.tile(self._vector, (len(token_ids), 1))


@dataclass(frozen=True)
class Weightless:
    """How workers build their pipelines.

    Attributes:
        dimension: Width of the vectors.
        seconds_per_document: Time the engine sleeps.
        tokenise: Whether the model's own tokenizer runs.
    """

    dimension: int
    seconds_per_document: float = 0.0
    tokenise: bool = True

    def __call__(self, target: Target, model: Model) -> Callable[[], EmbedPipeline]:
        """As :data:`indexer.indexing.Recipe`."""
        return partial(_pipeline, target, model, self)


def _pipeline(target: Target, model: Model, made: Weightless) -> EmbedPipeline:
    return EmbedPipeline(
        target,
        lambda: Dice(made.dimension, made.seconds_per_document),
        lambda: model.tokenizer if made.tokenise else OneToken(),
    )
