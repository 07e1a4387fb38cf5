"""Training in a Ray actor, which gets one step after the other, or in several workers."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from indexer.adapting.embedder import EmbedderTrainer
from indexer.adapting.group import ALONE, Group
from indexer.adapting.reranker import RerankerTrainer
from indexer.adapting.training import Recipe, Trainer
from indexer.cluster.connection import Cluster
from indexer.cluster.leases import GivenUp
from indexer.cluster.pipeline import Pipeline
from indexer.errors import IndexerError
from indexer.progress import Progress, Stopwatch, say
from indexer.settings import ProgressStyle

MOST_RESTARTS = 3
"""Workers that may die while they train."""


@dataclass(frozen=True)
class Step:
    """A step, the unit of retry: a new worker goes on from the last saved weights.

    Attributes:
        number: Steps with it.
        size: One step.
    """

    number: int
    size: int = 1

    @property
    def shard_id(self) -> str:
        """Its name."""
        return f"step {self.number}"

    def halves(self) -> tuple["Step", ...]:
        """None."""
        return ()


class TrainingPipeline(Pipeline[Step, Trainer, int, int]):
    """Steps of a training, in one process; its worker gets one after the other."""

    def _read(self, piece: Step, watch: Stopwatch) -> int:  # noqa: ARG002
        return piece.number

    def _compute(self, held: int, watch: Stopwatch) -> None:
        with watch("train"):
            self._engine.advance(held)

    def _store(self, piece: Step, held: int, watch: Stopwatch) -> int:  # noqa: ARG002
        return held


def make_trainer(recipe: Recipe, group: Group = ALONE) -> Trainer:
    """Loads the model in this process."""
    return RerankerTrainer(recipe, group) if recipe.settings.kind == "reranker" else EmbedderTrainer(recipe, group)


def train_in_group(recipe: Recipe, rank: int, size: int) -> None:
    """Trains from what is saved to the last step, with the other processes of a group."""
    # All look for what is saved before the first one saves more: it waits for the others' gradients.
    make_trainer(recipe, Group(rank, size)).advance(recipe.settings.steps)


def train(recipe: Recipe, cluster: Cluster, style: ProgressStyle) -> None:
    """Trains from what is saved to the last step.

    Args:
        recipe: What is trained.
        cluster: Where.
        style: How progress is shown.

    Raises:
        IndexerError: The model cannot be trained, or its worker died too often.
        KeyboardInterrupt: A signal asked to stop; the step in hand is done, with several workers those until the next
            weights are saved.
    """
    steps = recipe.settings.steps
    start = max(recipe.saved, default=0)
    if start == steps:
        return
    with Progress(steps - start, style, "steps") as progress:
        follow = Follower(recipe, progress, start)
        if recipe.settings.workers > 1:
            _train_together(recipe, cluster, follow)
        else:
            _train_alone(recipe, cluster, follow)


@dataclass
class Follower:
    """Says how far a training has come: every step as progress, and the loss at every checkpoint.

    Attributes:
        recipe: What is trained.
        progress: Counts the steps.
        step: The last step that is counted.
    """

    recipe: Recipe
    progress: Progress
    step: int

    def __post_init__(self) -> None:
        """Reads what an earlier run told."""
        self._log = self.recipe.log()
        checkpoint = max((end for end in self.recipe.ends if end <= self.step), default=0)
        told = self._log.follow()
        self._losses = {one.step: one.loss for one in told if checkpoint < one.step <= self.step}

    def look(self) -> None:
        """Tells the steps that came."""
        for told in self._log.follow():
            self._losses[told.step] = told.loss
            if told.step > self.step:
                self.step = told.step
                self.progress.add(1, told.tokens, self.recipe.settings.workers)
                if told.step in self.recipe.ends:
                    say(f"loss {np.mean(list(self._losses.values())):.4f} over {len(self._losses)} steps")
                    self._losses = {}


def _train_alone(recipe: Recipe, cluster: Cluster, follow: Follower) -> None:
    """Trains in one worker, which gets one step after the other."""
    with cluster.pool(partial(TrainingPipeline, partial(make_trainer, recipe)), 1, whole=True) as pool:
        for number in range(follow.step + 1, recipe.settings.steps + 1):
            for outcome in pool.run([Step(number)], 1, MOST_RESTARTS):
                if isinstance(outcome, GivenUp):
                    raise IndexerError(f"training stopped before step {number}: {outcome.reason}")
            follow.look()


def _train_together(recipe: Recipe, cluster: Cluster, follow: Follower) -> None:
    """Trains with several workers, and looks at what they tell."""
    # Ray Train writes nothing there that anybody reads again.
    folder, saved = str(recipe.training.resolve()), recipe.saved
    for asked in cluster.together(train_in_group, recipe, recipe.settings.workers, folder, MOST_RESTARTS):
        follow.look()
        before, saved = saved, recipe.saved
        if asked and saved != before and follow.step < recipe.settings.steps:
            raise KeyboardInterrupt
