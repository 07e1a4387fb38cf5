"""The reranker in training: its scores are the engine's before and after."""

import hashlib
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest

from indexer.adapting import weights
from indexer.adapting.pairs import Pair
from indexer.adapting.reranker import RerankerTrainer, prompts
from indexer.adapting.training import FirstBatch, Recipe
from indexer.errors import IndexerError
from indexer.inference.model import open_reranker
from indexer.settings import EngineSettings, RerankerSettings
from indexer.testing.checkpoints import qwen3_checkpoint
from tests.support import adapting
from tests.support.conventions import TINY

pytestmark = pytest.mark.heavy

PAIRS = [
    Pair(
        "q0",
        "red bridge",
        "d0",
        "the bridge that stood there was red",
        "titles",
        negatives={"n": "the kettle was green"},
    ),
    Pair("q1", "early violin", "d1", "the violin was early and number 7 of a long row", "titles"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return qwen3_checkpoint(tmp_path_factory.mktemp("reranker"), TINY, kind="reranker", dtype="float32")


@pytest.fixture(scope="module")
def recipe(base: str, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return adapting.reranker_recipe(tmp_path_factory.mktemp("run"), base, steps=8)


@pytest.fixture(scope="module")
def losses(recipe: Recipe) -> list[float]:
    trainer = RerankerTrainer(recipe)
    trainer.advance(recipe.settings.steps)
    return [told.loss for told in recipe.log().follow()]


def test_negatives_are_labelled_no(base: str) -> None:
    model = open_reranker(RerankerSettings(name=base, max_tokens=160), EngineSettings())
    batch, labels = prompts(model, PAIRS)
    assert labels.tolist() == [1.0, 1.0, 0.0]
    assert batch.ids == model.tokenizer.pairs(
        ["red bridge", "early violin", "red bridge"],
        [PAIRS[0].document, PAIRS[1].document, "the kettle was green"],
    ).ids  # fmt: skip


def test_training_lowers_the_loss(losses: list[float]) -> None:
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0], "every batch has all pairs"


def test_scores_that_are_not_the_engines_are_refused_before_the_first_step(recipe: Recipe, tmp_path: Path) -> None:
    other = FirstBatch(recipe.first.ids, recipe.first.results + 0.01)
    with pytest.raises(IndexerError, match=r"other scores than the engine: they differ by up to 0\.01"):
        RerankerTrainer(Recipe(recipe.model, recipe.settings, (), 0, recipe.folder, other))
    assert not list(tmp_path.iterdir())


def _engine_scores(path: str) -> np.ndarray:
    settings = RerankerSettings(name=path, max_tokens=160, dtype="float32")
    model = open_reranker(settings, EngineSettings(enforce_eager=True))
    batch, _ = prompts(model, PAIRS)
    return model.engine().score(batch.ids, batch.second)


def test_the_engine_scores_as_transformers_does_with_the_written_model(
    base: str, recipe: Recipe, losses: list[float], tmp_path: Path, engine_process: Executor
) -> None:
    assert losses
    written = tmp_path / "model"
    weights.write_merged(base, [recipe.checkpoint(step) for step in recipe.ends], 0.75, "auto", written)
    batch, _ = prompts(open_reranker(RerankerSettings(name=base, max_tokens=160), EngineSettings()), PAIRS)
    before, after = (adapting.scores(path, batch.ids) for path in (base, str(written)))
    ours = engine_process.submit(_engine_scores, str(written)).result()
    assert np.abs(ours - after).max() <= 1e-4
    assert np.abs(ours - before).max() > 1e-3, "it has learnt something"
    changed = {
        file.name for file in written.rglob("*")
        if file.is_file() and hashlib.sha256(file.read_bytes()).digest()
        != hashlib.sha256((Path(base) / file.relative_to(written)).read_bytes()).digest()
    }  # fmt: skip
    assert changed == {"model.safetensors"}
