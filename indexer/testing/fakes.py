"""Stand-ins for tests without a model: fake engines, and models and rerankers with one.

Nothing in a run imports this module. A fake engine's vectors are random: tests with it check arithmetic, never
relevance.
"""

import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from indexer.errors import EngineDead
from indexer.inference.deadline import deadline
from indexer.inference.model import Model, Reranker
from indexer.inference.sequences import TokenSequences


class FakeEngine:
    """An engine without a model: equal token ids always give the same vector, whatever the batch.

    Attributes:
        dimension: Width of the vectors.
        calls: Sequences embedded so far.
        cached_tokens: Always 0: nothing is reused.
    """

    def __init__(  # noqa: PLR0913  # a fault each
        self,
        dimension: int = 64,
        *,
        seconds_per_token: float = 0.0,
        dies_on: int | None = None,
        exits_on: int | None = None,
        nan_on: int | None = None,
        hangs_on: int | None = None,
        swells_on: int | None = None,
        turned_to: float = 1.0,
        per_token: bool = False,
    ) -> None:
        """Sets the engine's faults.

        Args:
            dimension: Width of the vectors.
            seconds_per_token: Time to sleep per token.
            dies_on: Token id that raises :class:`EngineDead`.
            exits_on: Token id that ends the process at once, as a segmentation fault would.
            nan_on: Token id whose sequences get vectors of NaN.
            hangs_on: Token id that keeps the engine busy for ever; its deadline is a second.
            turned_to: Cosine between these vectors and the ones of an engine that is not turned.
            per_token: Whether it gives a vector of every token, as a late-interaction model does.
            swells_on: Token id that makes the engine allocate 3 GiB, unless something ends the process first.
        """
        self.dimension = dimension
        self.calls = 0
        self.cached_tokens = 0
        self._seconds_per_token = seconds_per_token
        self._dies_on = dies_on
        self._exits_on = exits_on
        self._nan_on = nan_on
        self._hangs_on = hangs_on
        self._swells_on = swells_on
        self._turned_to = turned_to
        self._per_token = per_token

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        """Unit vectors, float32, shape (len(sequences), dimension), or of every token (sequences.tokens, dimension)."""
        self.calls += len(sequences)
        time.sleep(self._seconds_per_token * sequences.tokens)
        if self._per_token:
            # A token's vector depends on its place and on the whole text.
            found = [self._turned(self._vector([*ids, at])) for ids in sequences.tolist() for at in range(len(ids))]
            return np.array(found, np.float32).reshape(-1, self.dimension)
        vectors = np.empty((len(sequences), self.dimension), np.float32)
        for row, ids in enumerate(sequences.tolist()):
            vectors[row] = self._turned(self._vector(ids))
        return vectors

    def score(self, sequences: TokenSequences, second: np.ndarray | None = None) -> np.ndarray:  # noqa: ARG002
        """Scores in (0, 1), float32, shape (len(sequences),)."""
        return 1.0 / (1.0 + np.exp(-4.0 * self.embed(sequences)[:, 0]))

    def close(self) -> None:
        """Nothing is held."""

    def _turned(self, vector: np.ndarray) -> np.ndarray:
        """The vector, rotated in the plane that it spans with a copy whose neighbouring components are swapped."""
        if self._turned_to == 1:
            return vector
        across = np.roll(vector, 1) - (np.roll(vector, 1) @ vector) * vector
        aside = np.sqrt(1 - self._turned_to**2) / np.linalg.norm(across)
        return (self._turned_to * vector + aside * across).astype(np.float32)

    def _vector(self, ids: Sequence[int]) -> np.ndarray:
        """Vector of one sequence, seeded by its ids; marked token ids cause their faults."""
        if self._hangs_on in ids:
            with deadline(1.0):
                threading.Event().wait()
        if self._swells_on in ids:
            _held = bytearray(3 << 30)
            threading.Event().wait()
        if self._exits_on in ids:
            os._exit(9)
        if self._dies_on in ids:
            raise EngineDead("the engine died of a marked token")
        if self._nan_on in ids:
            return np.full(self.dimension, np.nan, np.float32)
        seed = hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=8).digest()
        vector = np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(self.dimension, np.float32)
        return vector / np.linalg.norm(vector)


@dataclass(frozen=True)
class FakeModel(Model):
    """A model whose tokenizer and fingerprint are its own and whose engine is a :class:`FakeEngine`.

    Attributes:
        faults: Keyword arguments of the fake engine.
    """

    faults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, **faults: Any) -> Self:
        """The same model with a fake engine."""
        return cls(model.settings, model.engine_settings, model.revision, faults)

    def engine(self) -> FakeEngine:
        """A fake engine with vectors of the model's dimension."""
        return FakeEngine(self.checkpoint.dimension, per_token=self.late_interaction is not None, **self.faults)


@dataclass(frozen=True)
class FakeReranker(Reranker):
    """A reranker whose engine is a :class:`FakeEngine`."""

    faults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, reranker: Reranker, **faults: Any) -> Self:
        """The same reranker with a fake engine."""
        return cls(reranker.settings, reranker.engine_settings, reranker.revision, faults)

    def engine(self) -> FakeEngine:
        """A fake engine."""
        return FakeEngine(**self.faults)
