"""A model that costs nothing or only sleeps, so that only the work around it is measured."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from indexer.inference.embed_inputs import EmbedTokenizer, TokenBatch
from indexer.inference.model import Model, open_model
from indexer.inference.sequences import TokenSequences
from indexer.settings import Settings

TOGETHER_SECONDS = 600.0
"""Longest wait of an engine for the others."""


class OneToken(EmbedTokenizer):
    """A tokenizer that takes no time: every document is one chunk of one token."""

    def documents(self, texts: Sequence[str]) -> TokenBatch:
        """One token per text."""
        rows = np.arange(len(texts), dtype=np.int32)
        nothing = np.zeros(len(texts), np.int32)
        ends = np.array([len(text) for text in texts], np.int32)
        return TokenBatch(
            TokenSequences.of([[0]] * len(texts)), rows, nothing, nothing, ends, np.zeros(len(texts), bool), []
        )

    def truncated(self, texts: Sequence[str]) -> TokenSequences:
        """One token per text."""
        return TokenSequences.of([[0]] * len(texts))


class Dice:
    """An engine that always gives the same unit vector, so that recomputed samples agree."""

    def __init__(self, dimension: int, seconds_per_document: float) -> None:
        """Draws the vector."""
        drawn = np.random.default_rng(0).standard_normal(dimension).astype(np.float32)
        self.dimension = dimension
        self._vector = drawn / np.linalg.norm(drawn)
        self._seconds = seconds_per_document

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        """Unit vectors, float32, shape (len(sequences), dimension)."""
        time.sleep(self._seconds * len(sequences))
        return np.tile(self._vector, (len(sequences), 1))

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class NullModel(Model):
    """A model that costs nothing.

    Attributes:
        seconds_per_document: Time the engine sleeps.
        tokenise: Whether the model's own tokenizer runs.
        together: An empty folder, and how many engines start before any of them works; ``None`` to wait for none.
    """

    seconds_per_document: float = 0.0
    tokenise: bool = True
    together: tuple[Path, int] | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        seconds_per_document: float = 0.0,
        *,
        tokenise: bool = True,
        together: tuple[Path, int] | None = None,
    ) -> Self:
        """The model of a job's settings, without its costs."""
        opened = open_model(settings.model, settings.engine)
        return cls(opened.settings, opened.engine_settings, opened.revision, seconds_per_document, tokenise, together)

    @cached_property
    def tokenizer(self) -> EmbedTokenizer:
        """The model's own tokenizer, or one that takes no time."""
        kind = EmbedTokenizer if self.tokenise else OneToken
        return kind(self.checkpoint.path, max_tokens=self.settings.max_tokens)

    def engine(self) -> Dice:
        """An engine that costs nothing; raises :class:`TimeoutError` if the others do not start."""
        if self.together is not None:
            _wait_for_all(*self.together)
        return Dice(self.checkpoint.dimension, self.seconds_per_document)


def _wait_for_all(folder: Path, engines: int) -> None:
    """Returns once so many processes have called it."""
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    last = time.monotonic() + TOGETHER_SECONDS
    while (started := sum(1 for _ in folder.iterdir())) < engines:
        if time.monotonic() > last:
            raise TimeoutError(f"{started} of {engines} engines have started")
        time.sleep(0.5)
