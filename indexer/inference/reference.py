"""Published vectors judge an engine: it must reproduce them before it may add any.

A list of arguments cannot name everything that changes a vector: another vLLM, a damaged weight file, a GPU that
miscomputes. So an engine embeds the same texts again, and its vectors are compared with the published ones.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat

import numpy as np

from indexer.errors import RefusedError
from indexer.inference import environment, matryoshka
from indexer.inference.engine import Embedder
from indexer.inference.sequences import TokenSequences
from indexer.inference.text_vectors import TextVectors

PROBES = (
    "The capital of China is Beijing.",
    "def add(a: int, b: int) -> int:\n    return a + b  # no overflow in Python",
    "北京是中华人民共和国的首都，也是全国的政治和文化中心。",
    "تجذب الجاذبية الأجسام بعضها إلى بعض.",
    "SELECT id, AVG(price) FROM orders WHERE day >= '2024-02-29' GROUP BY id HAVING COUNT(*) > 3;",
    "Die Donaudampfschifffahrtsgesellschaft fährt über Passau, Linz und Wien nach Budapest.",
    "3.14159 2.71828 1.41421 1.61803",
    "The river turns south past the old mill, where the road from the harbour meets the railway line. " * 12,
)
"""Texts whose vectors every epoch records: scripts, code, numbers, and one long enough for what changes with length."""

FIRST = np.zeros(1, np.int64)
"""Place of a text's first vector: its only one, or that of its first token, which has read all others."""

STORED = "<f2"
"""Stored dtype: half precision moves the cosine of a unit vector by less than 1e-6."""


@dataclass(frozen=True)
class Probes:
    """One engine's vectors of :data:`PROBES`.

    Attributes:
        ids: Token ids of each.
        vectors: float32, shape (probes, dimension): the first vector of each.
    """

    ids: list[list[int]]
    vectors: np.ndarray

    def encoded(self) -> str:
        """The vectors as base64 of little-endian float16, for JSON."""
        return base64.b64encode(self.vectors.astype(STORED).tobytes()).decode()

    @classmethod
    def decoded(cls, ids: Sequence[Sequence[int]], vectors: str) -> "Probes":
        """The inverse of :meth:`encoded`."""
        flat = np.frombuffer(base64.b64decode(vectors), STORED).astype(np.float32)
        return cls([list(row) for row in ids], flat.reshape(len(ids), -1))


@dataclass(frozen=True)
class Reference:
    """Vectors that an engine must reproduce.

    Attributes:
        epoch: The epoch that published them.
        least: Least cosine that is allowed.
        made_with: Environment that computed them, by :func:`indexer.inference.environment.describe`; ``None`` if it was
            not recorded.
        ids: Token ids of each text.
        vectors: The published vectors of each, float32, shape (width,) for its first one, otherwise (n, width); a width
            may be any below the model's dimension.
        documents: How many texts are documents; the rest are :data:`PROBES`.
        places: Of every document, which of the engine's vectors were published; without them its first one.
    """

    epoch: int
    least: float
    made_with: dict[str, str] | None
    ids: list[list[int]] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    documents: int = 0
    places: list[np.ndarray] = field(default_factory=list)

    def worst_cosine(self, engine: Embedder) -> float:
        """Least cosine between a published vector and the engine's; 1 without published vectors."""
        sequences = TokenSequences.of(self.ids)
        found = TextVectors.of(engine.embed(sequences), sequences)
        chosen = chain(self.places, repeat(FIRST))
        pairs = ((found[row][next(chosen)], np.atleast_2d(known)) for row, known in enumerate(self.vectors))
        return min((_least_cosine(ours, known) for ours, known in pairs), default=1.0)

    def check(self, engine: Embedder, now: dict[str, str], who: str) -> float:
        """Compares an engine with the published vectors.

        Args:
            engine: The engine.
            now: Result of :func:`indexer.inference.environment.describe` in this process.
            who: The consequence for the engine, as the error states it.

        Returns:
            The worst cosine.

        Raises:
            RefusedError: It is below :attr:`least`; the message names both numbers and the changes since the epoch.
        """
        worst = self.worst_cosine(engine)
        if worst >= self.least:
            return worst
        changed = (
            f"what made epoch {self.epoch} is not recorded"
            if self.made_with is None
            else f"since epoch {self.epoch}: {environment.changes(self.made_with, now)}"
        )
        compared = f"{self.documents} documents and {len(self.ids) - self.documents} probes"
        raise RefusedError(
            f"{who}: the engine's vectors are not the published ones, gates.published_cosine is {worst:.4f}, allowed "
            f"{self.least:.4f}, worst of {compared}; {changed}"
        )


def probe(engine: Embedder, ids: list[list[int]]) -> Probes:
    """Embeds the probes with an engine."""
    sequences = TokenSequences.of(ids)
    found = TextVectors.of(engine.embed(sequences), sequences)
    return Probes(ids, found.flat[found.starts])


def _least_cosine(ours: np.ndarray, known: np.ndarray) -> float:
    """Least cosine between an engine's vectors and the published ones, -1 where there is none."""
    if len(ours) != len(known):
        return -1.0
    products = (matryoshka.cut(ours, known.shape[1]) * known).sum(axis=1)
    cosines = products / np.maximum(np.linalg.norm(known, axis=1), 1e-12)
    return float(np.where(np.isfinite(cosines), cosines, -1.0).min())
