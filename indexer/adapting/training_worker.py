"""Training in a Ray actor, which gets the stretches between checkpoints one after the other, or in several workers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from indexer.adapting.embedder import EmbedderTrainer
from indexer.adapting.group import ALONE, Group
from indexer.adapting.reranker import RerankerTrainer
from indexer.adapting.training import Recipe, Trainer
from indexer.cluster.connection import Cluster
from indexer.cluster.drive import Work, drive
from indexer.cluster.leases import GivenUp
from indexer.cluster.pipeline import Pipeline
from indexer.errors import IndexerError
from indexer.progress import Progress, Stopwatch, say
from indexer.settings import ProgressStyle

MOST_RESTARTS = 3
"""Workers that may die while they train."""


@dataclass(frozen=True)
class Stretch:
    """Steps up to a checkpoint: the unit of retry and resume.

    Attributes:
        start: Steps before it.
        stop: Steps after it.
    """

    start: int
    stop: int

    @property
    def shard_id(self) -> str:
        """Its name."""
        return f"{self.stop:06d}"

    @property
    def size(self) -> int:
        """Number of steps."""
        return self.stop - self.start

    def halves(self) -> tuple["Stretch", ...]:
        """None: it ends at a checkpoint."""
        return ()


@dataclass
class Trained:
    """What a stretch gave.

    Attributes:
        stop: Step that it ends with.
        losses: The loss of every step.
        tokens: Tokens that were read.
    """

    stop: int
    losses: list[float] = field(default_factory=list)
    tokens: int = 0


class TrainingPipeline(Pipeline[Stretch, Trainer, Trained, Trained]):
    """Stretches of a training, in one process."""

    def _read(self, piece: Stretch, watch: Stopwatch) -> Trained:  # noqa: ARG002
        return Trained(piece.stop)

    def _compute(self, held: Trained, watch: Stopwatch) -> None:
        with watch("train"):
            held.losses, held.tokens = self._engine.advance(held.stop)

    def _store(self, piece: Stretch, held: Trained, watch: Stopwatch) -> Trained:  # noqa: ARG002
        return held


def make_trainer(recipe: Recipe, group: Group = ALONE) -> Trainer:
    """Loads the model in this process."""
    return RerankerTrainer(recipe, group) if recipe.settings.kind == "reranker" else EmbedderTrainer(recipe, group)


def train_in_group(recipe: Recipe, rank: int, size: int) -> None:
    """Trains from the last checkpoint to the last step, with the other processes of a group."""
    trainer = make_trainer(recipe, Group(rank, size))
    # All look before the first one writes the next checkpoint: it waits for the others' gradients.
    for stop in [stop for stop in recipe.ends if stop not in recipe.finished]:
        trainer.advance(stop)


def train(recipe: Recipe, cluster: Cluster, style: ProgressStyle) -> None:
    """Trains from the last checkpoint to the last step.

    Args:
        recipe: What is trained.
        cluster: Where.
        style: How progress is shown.

    Raises:
        IndexerError: The model cannot be trained, or its worker died too often.
    """
    begins = [0, *recipe.ends[:-1]]
    left = [Stretch(start, stop) for start, stop in zip(begins, recipe.ends, strict=True)]
    left = [stretch for stretch in left if stretch.stop not in recipe.finished]
    if not left:
        return
    if recipe.settings.workers > 1:
        _train_together(recipe, cluster, left, style)
        return

    def given_up(stretch: GivenUp[Stretch]) -> None:
        raise IndexerError(f"training stopped before step {stretch.piece.stop}: {stretch.reason}")

    with cluster.pool(partial(TrainingPipeline, partial(make_trainer, recipe)), 1, whole=True) as pool:
        for stretch in left:
            drive(pool, Work([stretch], stretch.size, "steps", 1, MOST_RESTARTS), style, _tell, given_up)


def _train_together(recipe: Recipe, cluster: Cluster, left: Sequence[Stretch], style: ProgressStyle) -> None:
    """Trains with several workers, and looks at the checkpoints that they write."""
    workers, waiting = recipe.settings.workers, list(left)
    # Ray Train writes nothing there that anybody reads again.
    folder = str(Path(recipe.folder).resolve() / "training")
    with Progress(sum(stretch.size for stretch in left), style, "steps") as progress:
        for asked in cluster.together(train_in_group, recipe, workers, folder, MOST_RESTARTS):
            ended = [stretch for stretch in waiting if stretch.stop in recipe.finished]
            for stretch in ended:
                losses, tokens = recipe.progress(stretch.stop)
                _tell(Trained(stretch.stop, losses, tokens))
                progress.add(stretch.size, tokens, workers)
                waiting.remove(stretch)
            if ended and waiting and asked:
                raise KeyboardInterrupt


def _tell(trained: Trained) -> None:
    say(f"loss {sum(trained.losses) / len(trained.losses):.4f} over {len(trained.losses)} steps")
