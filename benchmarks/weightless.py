"""A model that costs nothing, so that only the work around it is left: one token per document, one vector for all."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from indexer.embedding import EmbedPipeline, Target
from indexer.model import Model
from indexer.tokens import TokenBatch

DIMENSION = 384


class OneToken:
    """Tokenizer that takes no time: every document is one chunk of one token."""

    def documents(self, texts: Sequence[str]) -> TokenBatch:
        """One token per text."""
        rows = np.arange(len(texts), dtype=np.int32)
        nothing = np.zeros(len(texts), np.int32)
        ends = np.array([len(text) for text in texts], np.int32)
        return TokenBatch([[0]] * len(texts), rows, nothing, nothing, ends, np.zeros(len(texts), bool), [])


class Dice:
    """Engine that takes no time: one and the same unit vector, so that a second look finds it again."""

    dimension = DIMENSION

    def __init__(self) -> None:
        """Draws the vector."""
        drawn = np.random.default_rng(0).standard_normal(DIMENSION).astype(np.float32)
        self._vector = drawn / np.linalg.norm(drawn)

    def embed(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Unit vectors, float32, shape (len(token_ids), DIMENSION)."""
        return np.tile(self._vector, (len(token_ids), 1))


def recipe(target: Target, _: Model) -> Callable[[], EmbedPipeline]:
    """How a worker builds its pipeline."""
    return partial(EmbedPipeline, target, Dice, OneToken)
