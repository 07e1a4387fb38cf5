"""Training in a Ray actor: one worker, which gets the stretches between checkpoints one after the other."""

from dataclasses import dataclass, field
from functools import partial

from indexer.adapting.embedder import EmbedderTrainer
from indexer.adapting.reranker import RerankerTrainer
from indexer.adapting.training import Recipe, Trainer
from indexer.cluster.connection import Cluster
from indexer.cluster.drive import Work, drive
from indexer.cluster.leases import GivenUp
from indexer.cluster.pipeline import Pipeline
from indexer.errors import IndexerError
from indexer.progress import Stopwatch, say
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


def make_trainer(recipe: Recipe) -> Trainer:
    """Loads the model in this process."""
    return RerankerTrainer(recipe) if recipe.settings.kind == "reranker" else EmbedderTrainer(recipe)


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

    def done(trained: Trained) -> None:
        say(f"loss {sum(trained.losses) / len(trained.losses):.4f} over {len(trained.losses)} steps")

    def given_up(stretch: GivenUp[Stretch]) -> None:
        raise IndexerError(f"training stopped before step {stretch.piece.stop}: {stretch.reason}")

    with cluster.pool(partial(TrainingPipeline, partial(make_trainer, recipe)), 1, whole=True) as pool:
        for stretch in left:
            drive(pool, Work([stretch], stretch.size, "steps", 1, MOST_RESTARTS), style, done, given_up)
