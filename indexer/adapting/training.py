"""Contrastive training of an embedding model with sentence-transformers' losses, from checkpoint to checkpoint.

Every step draws its own random numbers from the seed and its number, and a checkpoint holds the optimiser. So a run
that is killed and resumed gives the weights of one that was not.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.adapting import batches, weights
from indexer.adapting.pairs import Pair, from_table, trained
from indexer.adapting_settings import TrainSettings
from indexer.inference.model import Model, Reranker
from indexer.inference.sequences import TokenSequences

PAIRS = "pairs.parquet"

STEP = "step-{:06d}"
"""Name of a checkpoint's folder."""

OPTIMIZER = "optimizer.pt"

RESULTS = pa.list_(pa.float32())

CLIPPED_NORM = 1.0
"""Norm to which gradients are clipped."""


@dataclass(frozen=True)
class FirstBatch:
    """What the engine gives for the first batch, which the model must give too before it is trained.

    Attributes:
        ids: Token ids of each text, or of each prompt.
        results: float32, shape (texts, dimension): unit vectors; for a reranker shape (prompts, 1): scores.
    """

    ids: TokenSequences
    results: np.ndarray

    def to_table(self) -> pa.Table:
        """Columns ``ids`` and ``result``."""
        ids, results = self.ids.tolist(), self.results.tolist()
        return pa.table({"ids": pa.array(ids, pa.list_(pa.int32())), "result": pa.array(results, RESULTS)})

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """The inverse of :meth:`to_table`."""
        results = np.array(table["result"].to_pylist(), np.float32)
        return cls(TokenSequences.of(table["ids"].to_pylist()), results)


@dataclass(frozen=True)
class Recipe:
    """Everything that a training is made of; small enough to be sent to a worker.

    Attributes:
        model: The base.
        settings: How it is trained.
        widths: Widths that are trained; none of a reranker.
        seed: Draws order and dropout.
        folder: Directory of the run: pairs are read from it and checkpoints written to it.
        first: What the engine gave for the first batch.
    """

    model: Model | Reranker
    settings: TrainSettings
    widths: tuple[int, ...]
    seed: int
    folder: str
    first: FirstBatch

    @property
    def ends(self) -> list[int]:
        """Steps after which there is a checkpoint."""
        count = min(self.settings.checkpoints, self.settings.steps)
        return [round(self.settings.steps * number / count) for number in range(1, count + 1)]

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint after a step."""
        return Path(self.folder) / "training" / STEP.format(step)

    @property
    def finished(self) -> list[int]:
        """Steps whose checkpoint is there."""
        return [step for step in self.ends if self.checkpoint(step).is_dir()]


class Trainer(ABC):
    """A model in training, in this process."""

    def __init__(self, recipe: Recipe) -> None:
        """Loads the base in float32 and compares what it gives for the first batch with what the engine gave.

        Raises:
            IndexerError: They differ, or the base's weights cannot be told apart.
        """
        import torch

        self.recipe = recipe
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.module: Any = self.load()
        self._parameters: Mapping[str, Any] = dict(self.module.named_parameters())
        self._known = weights.places(recipe.model.checkpoint.path, self._parameters)
        self.module.eval()
        with torch.no_grad():
            self.check_first([self.pairs[row] for row in self._rows[0]])
        self._freeze()
        self._optimizer = torch.optim.AdamW(
            [one for one in self._parameters.values() if one.requires_grad], lr=0.0, weight_decay=0.0
        )
        self.step = 0

    @abstractmethod
    def load(self) -> Any:
        """The base in float32, on the device."""

    @abstractmethod
    def check_first(self, pairs: Sequence[Pair]) -> None:
        """Compares ids and results of the first batch with the engine's.

        Raises:
            IndexerError: They differ.
        """

    @abstractmethod
    def learn(self, pairs: Sequence[Pair]) -> tuple[float, int]:
        """Adds the gradients of a batch; returns its loss and its tokens."""

    @abstractmethod
    def embeddings(self) -> Any:
        """The table of token vectors."""

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs that are trained on."""
        return trained(self._all)

    @cached_property
    def _all(self) -> list[Pair]:
        return from_table(pq.read_table(Path(self.recipe.folder) / PAIRS))

    @cached_property
    def _rows(self) -> list[list[int]]:
        settings = self.recipe.settings
        return batches.make(self._all, settings.batch, settings.steps, self.recipe.seed)

    def advance(self, until: int) -> tuple[list[float], int]:
        """Trains up to a step and writes its checkpoint; resumes from the one before if this process has not made it.

        Args:
            until: One of the recipe's ends.

        Returns:
            The loss of every step, and the tokens that were read.
        """
        start = max((end for end in self.recipe.ends if end < until), default=0)
        if self.step != start:
            self._restore(start)
        losses, tokens = [], 0
        while self.step < until:
            loss, read = self._train([self.pairs[row] for row in self._rows[self.step]])
            losses.append(loss)
            tokens += read
        self._save()
        return losses, tokens

    def autocast(self) -> Any:
        """Computes in bfloat16 on GPUs, within the block."""
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def _train(self, pairs: Sequence[Pair]) -> tuple[float, int]:
        """One step."""
        import torch

        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        self.module.train()
        for group in self._optimizer.param_groups:
            group["lr"] = rate(self.recipe.settings, self.step)
        found = self.learn(pairs)
        torch.nn.utils.clip_grad_norm_([one for one in self._parameters.values() if one.requires_grad], CLIPPED_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return found

    def _freeze(self) -> None:
        """Leaves out of training what the checkpoint does not hold, and the token vectors where that is wanted."""
        held = set(self._known.values())
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in held)
        if self.recipe.settings.frozen_embeddings:
            self.embeddings().requires_grad_(False)  # noqa: FBT003

    def _save(self) -> None:
        """Writes the checkpoint; its folder appears when it is complete."""
        import torch

        target = self.recipe.checkpoint(self.step)
        begun = target.with_suffix(".begun")
        shutil.rmtree(begun, ignore_errors=True)
        weights.save(begun, self._known, self._parameters)
        torch.save(self._optimizer.state_dict(), begun / OPTIMIZER)
        begun.replace(target)

    def _restore(self, step: int) -> None:
        """Goes to the state after a step; 0 is the base."""
        import torch

        if step == 0:
            weights.load(Path(self.recipe.model.checkpoint.path), self._known, self._parameters)
            self._optimizer.state.clear()
        else:
            folder = self.recipe.checkpoint(step)
            weights.load(folder, self._known, self._parameters)
            self._optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True))
        self.step = step


def rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of a step: it rises linearly in the warm-up, then falls linearly to nearly 0."""
    warm = round(settings.warmup * settings.steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * (settings.steps - step) / (settings.steps - warm)
