"""A model without weights, whose vectors lie around random centres, so that an index finds something."""

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np

from benchmarks.storage import CENTRES
from indexer.inference.model import Model, open_model
from indexer.inference.sequences import TokenSequences
from indexer.settings import Settings


class Centred:
    """An engine without a model, whose vectors lie around random centres; equal ids give equal vectors."""

    def __init__(self, dimension: int) -> None:
        """Draws the centres."""
        self.dimension = dimension
        self._centres = np.random.default_rng(0).standard_normal((CENTRES, dimension), np.float32)

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        """Unit vectors, float32, shape (len(sequences), dimension)."""
        vectors = np.empty((len(sequences), self.dimension), np.float32)
        for row, ids in enumerate(sequences.tolist()):
            seed = hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=8).digest()
            drawn = np.random.default_rng(int.from_bytes(seed, "little"))
            near = self._centres[drawn.integers(CENTRES)]
            vectors[row] = near + 0.7 * drawn.standard_normal(self.dimension, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class CentredModel(Model):
    """A model whose tokenizer is its own and whose engine is :class:`Centred`."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The model of a job's settings, with that engine."""
        opened = open_model(settings.model, settings.engine)
        return cls(opened.settings, opened.engine_settings, opened.revision)

    def engine(self) -> Centred:
        """An engine of the model's dimension."""
        return Centred(self.checkpoint.dimension)
