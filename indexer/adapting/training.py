"""Training from checkpoint to checkpoint, by one process or several that share every batch.

Every step draws its own random numbers from the seed and its number, and a checkpoint holds the optimiser. So a run
that is killed and resumed gives the weights of one that was not.
"""

import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.adapting import batches, low_rank, weights
from indexer.adapting.group import ALONE, Group
from indexer.adapting.low_rank import LowRank
from indexer.adapting.pairs import Pair, from_table, trained
from indexer.adapting.step_log import StepLog, Told
from indexer.adapting_settings import TrainSettings
from indexer.errors import CorpusError
from indexer.inference.model import Model, Reranker
from indexer.inference.sequences import TokenSequences

PAIRS = "pairs.parquet"

STEP = "step-{:06d}"
"""Name of a checkpoint's folder."""

SAVED = re.compile(r"step-(\d{6,})")

OPTIMIZER = "optimizer.pt"

UPDATES = "updates.pt"
"""Low-rank updates of a checkpoint, whose weights include them."""

LOG = "steps.jsonl"

SAVE_SECONDS = 300.0
"""Time after which weights and optimiser are saved between two checkpoints, so that a kill loses no more."""

SAVE_SHARE = 0.05
"""Largest share of the time that saving between checkpoints may take."""

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
        return self.training / STEP.format(step)

    @property
    def training(self) -> Path:
        """Directory of the checkpoints."""
        return Path(self.folder) / "training"

    @property
    def saved(self) -> list[int]:
        """Steps after which a training can go on, in order: checkpoints and the last point between two."""
        found = (SAVED.fullmatch(path.name) for path in self.training.glob("*"))
        return sorted(int(match[1]) for match in found if match)

    @property
    def finished(self) -> list[int]:
        """Steps whose checkpoint is there."""
        saved = set(self.saved)
        return [step for step in self.ends if step in saved]

    def log(self) -> StepLog:
        """Loss and tokens of every step."""
        return StepLog(self.training / LOG)


class Trainer(ABC):
    """A model in training, in this process."""

    def __init__(self, recipe: Recipe, group: Group = ALONE) -> None:
        """Loads the base in float32 and compares what it gives for the first batch with what the engine gave.

        Args:
            recipe: What is trained.
            group: The processes that train together, of which this is one.

        Raises:
            IndexerError: They differ, or the base's weights cannot be told apart.
            CorpusError: There are fewer pairs than processes.
        """
        import torch

        self.recipe, self.group = recipe, group
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.module: Any = self.load()
        self._parameters: Mapping[str, Any] = dict(self.module.named_parameters())
        self._known = weights.places(recipe.model.checkpoint.path, self._parameters)
        if len(self._rows[0]) < group.size:
            raise CorpusError(f"train.workers: {len(self._rows[0])} pairs cannot be spread over {group.size} workers")
        self.module.eval()
        with torch.no_grad():
            self.check_first([self.pairs[row] for row in self._rows[0]])
        self._updates: Mapping[str, LowRank] = {}
        self._trained = self._choose_trained()
        self._optimizer = torch.optim.AdamW(self._trained, lr=0.0, weight_decay=0.0)
        self._log, self._save_at = recipe.log(), time.monotonic() + SAVE_SECONDS
        self._restore(0)

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
        """Adds the gradients of this process's part of a batch; returns its loss and its tokens.

        The mean of the gradients of all processes is that of the batch, and so is the mean of their losses.
        """

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

    def advance(self, until: int) -> None:
        """Trains up to a step, from what is saved if this process has not come so far, and writes the checkpoints.

        Args:
            until: Number of the step.
        """
        saved = max((step for step in self.recipe.saved if step < until), default=0)
        if not saved <= self.step < until:
            self._restore(saved)
        while self.step < until:
            loss, tokens = self._train([self.pairs[row] for row in self._rows[self.step]])
            if self.group.rank == 0:
                self._keep(Told(self.step, loss, tokens))

    def _keep(self, told: Told) -> None:
        """Tells a step, and saves it if it is a checkpoint or the last one is long ago."""
        if told.step in self.recipe.ends or time.monotonic() > self._save_at:
            began = time.monotonic()
            self._save()
            took = time.monotonic() - began
            self._save_at = began + took + max(SAVE_SECONDS, took / SAVE_SHARE)
        self._log.add(told)

    def autocast(self) -> Any:
        """Computes in bfloat16 on GPUs, within the block."""
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def _train(self, pairs: Sequence[Pair]) -> tuple[float, int]:
        """One step."""
        import torch

        # Processes draw different dropout for their parts of a batch.
        torch.manual_seed((self.recipe.seed * 1_000_003 + self.step) * self.group.size + self.group.rank)
        self.module.train()
        for group in self._optimizer.param_groups:
            group["lr"] = rate(self.recipe.settings, self.step)
        loss, tokens = self.learn(pairs)
        self.group.average(self._trained)
        torch.nn.utils.clip_grad_norm_(self._trained, CLIPPED_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        like = self._trained[0]
        return self.group.total(loss, like) / self.group.size, round(self.group.total(tokens, like))

    def _choose_trained(self) -> list[Any]:
        """What the optimiser changes; the rest is frozen.

        That is what the checkpoint holds, without the token vectors where these are frozen, or low-rank updates.
        """
        settings, held = self.recipe.settings, set(self._known.values())
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in held and not settings.lora_rank)
        if settings.lora_rank:
            held_parameters = {name: self._parameters[name] for name in held}
            self._updates = low_rank.attach(self.module, held_parameters, settings.lora_rank, settings.lora_alpha)
            return [part for update in self._updates.values() for part in (update.down, update.up)]
        if settings.frozen_embeddings:
            self.embeddings().requires_grad_(False)  # noqa: FBT003
        return [parameter for parameter in self._parameters.values() if parameter.requires_grad]

    def _save(self) -> None:
        """Writes weights and optimiser; their folder appears when it is complete, and those between checkpoints go."""
        import torch

        target = self.recipe.checkpoint(self.step)
        begun = target.with_suffix(".begun")
        shutil.rmtree(begun, ignore_errors=True)
        updated = {name: self._parameters[name].detach() + update.weight for name, update in self._updates.items()}
        weights.save(begun, self._known, {**self._parameters, **updated})
        if self._updates:
            torch.save({name: (one.down, one.up) for name, one in self._updates.items()}, begun / UPDATES)
        torch.save(self._optimizer.state_dict(), begun / OPTIMIZER)
        before = [step for step in self.recipe.saved if step not in self.recipe.ends]
        begun.replace(target)
        for step in before:
            shutil.rmtree(self.recipe.checkpoint(step))

    def _restore(self, step: int) -> None:
        """Goes to the state after a step; 0 is the base."""
        import torch

        folder = self.recipe.checkpoint(step) if step else Path(self.recipe.model.checkpoint.path)
        if self._updates:
            self._restore_updates(folder if step else None)
        else:
            weights.load(folder, self._known, self._parameters)
        if step:
            self._optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True))
        else:
            self._optimizer.state.clear()
        self.step = step

    def _restore_updates(self, folder: Path | None) -> None:
        """Reads the updates of a checkpoint, or draws them anew, the same in every process."""
        import torch

        if folder is None:
            torch.manual_seed(self.recipe.seed)
            for update in self._updates.values():
                update.reset()
            return
        with torch.no_grad():
            for name, (down, up) in torch.load(folder / UPDATES, weights_only=True).items():
                self._updates[name].down.copy_(down)
                self._updates[name].up.copy_(up)


def rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of a step: it rises linearly in the warm-up, then falls linearly to nearly 0."""
    warm = round(settings.warmup * settings.steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * (settings.steps - step) / (settings.steps - warm)
