"""Training from checkpoint to checkpoint, and what is written of it."""

import hashlib
import json
import math
import shutil
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.adapting import training, training_worker, weights
from indexer.adapting.embedder import EmbedderTrainer as Trainer
from indexer.adapting.step_log import Told
from indexer.adapting.training import Recipe, rate
from indexer.adapting_settings import TrainSettings
from indexer.cluster.connection import Cluster
from indexer.errors import IndexerError, SettingsError
from indexer.inference.model import open_model
from indexer.progress import Progress
from indexer.settings import ClusterSettings, EngineSettings, ModelSettings
from tests.support import adapting, conventions

pytestmark = pytest.mark.heavy

QUERIES, DOCUMENTS = ["red bridge", "early violin 7"], ["the bridge was red", "the kettle is number 9 of a long row"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return conventions.bert(
        tmp_path_factory.mktemp("bert"), "mean_tokens", {"query": "query: ", "document": "passage: "}
    )


@pytest.fixture(scope="module")
def without_dropout(bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Workers draw other dropout for their parts than one worker for the whole batch."""
    path = tmp_path_factory.mktemp("without") / "bert"
    shutil.copytree(bert, path)
    config = json.loads((path / "config.json").read_text())
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (path / "config.json").write_text(json.dumps(config | dropout))
    return str(path)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> str:
    return conventions.bert(tmp_path_factory.mktemp("dense"), "mean_tokens", None, dense=64)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return conventions.qwen3(tmp_path_factory.mktemp("qwen3"), conventions.QWEN3_PROMPTS)


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def train(recipe: Recipe) -> Path:
    """Trains in one go; returns the last checkpoint."""
    Trainer(recipe).advance(recipe.settings.steps)
    return recipe.checkpoint(recipe.ends[-1])


def told_losses(recipe: Recipe) -> list[float]:
    return [told.loss for told in recipe.log().follow()]


def test_what_is_saved_between_checkpoints_is_resumed_and_goes(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill costs the steps since then, and not those since the last checkpoint."""
    straight, resumed = (adapting.recipe(tmp_path / name, bert, steps=6, checkpoints=2) for name in ("one", "two"))
    expected = digests(train(straight))
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training, "SAVE_SHARE", math.inf)
    Trainer(resumed).advance(2)
    assert (resumed.saved, resumed.finished) == ([2], [])
    with (resumed.training / "steps.jsonl").open("a") as stream:
        stream.write("[3, 0.1")  # a kill cut the line
    Trainer(resumed).advance(5)
    assert (resumed.saved, resumed.finished) == ([3, 5], [3])
    Trainer(resumed).advance(6)
    assert resumed.saved == resumed.finished == [3, 6]
    assert digests(resumed.checkpoint(6)) == expected
    assert [told.step for told in resumed.log().follow()] == [1, 2, 3, 4, 5, 6]


def test_a_resumed_training_tells_the_loss_since_the_last_checkpoint(
    bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = adapting.recipe(tmp_path, bert, steps=6, checkpoints=2)
    log = recipe.log()
    for step in (1, 2, 3, 4):
        log.add(Told(step, float(step), 8))
    follower = training_worker.Follower(recipe, Progress(2, "none"), 4)
    for step in (5, 6):
        log.add(Told(step, float(step), 8))
    follower.look()
    assert follower.step == 6
    assert capsys.readouterr().err.endswith("loss 5.0000 over 3 steps\n")


def test_a_resumed_training_gives_the_same_weights(bert: str, tmp_path: Path) -> None:
    """Also where a process died between two checkpoints, after some steps."""
    straight, resumed = (adapting.recipe(tmp_path / name, bert) for name in ("straight", "resumed"))
    expected = digests(train(straight))
    Trainer(resumed).advance(2)
    lost = Trainer(resumed)
    lost.advance(4)
    shutil.rmtree(resumed.checkpoint(4))
    assert resumed.finished == [2]
    Trainer(resumed).advance(4)
    assert digests(resumed.checkpoint(4)) == expected
    assert digests(straight.checkpoint(2)) != expected


@pytest.mark.parametrize("lora_rank", [0, 2], ids=["all weights", "drawn updates"])
def test_a_worker_that_has_to_begin_again_begins_at_the_base(bert: str, tmp_path: Path, lora_rank: int) -> None:
    recipe = adapting.recipe(tmp_path, bert, lora_rank=lora_rank)
    trainer = Trainer(recipe)
    trainer.advance(2)
    first = digests(recipe.checkpoint(2))
    shutil.rmtree(recipe.checkpoint(2))
    trainer.advance(2)
    assert digests(recipe.checkpoint(2)) == first


@pytest.mark.parametrize("loss", ["ranking", "guided"])
def test_training_lowers_the_loss(bert: str, tmp_path: Path, loss: str) -> None:
    recipe = adapting.recipe(tmp_path, bert, steps=12, checkpoints=1, learning_rate=1e-3, loss=loss)
    Trainer(recipe).advance(12)
    losses = told_losses(recipe)
    assert len(losses) == 12
    assert np.mean(losses[-4:]) < 0.92 * np.mean(losses[:4])
    assert all(told.tokens > 16 for told in recipe.log().follow())


def test_vectors_that_are_not_the_engines_are_refused_before_the_first_step(bert: str, tmp_path: Path) -> None:
    with pytest.raises(IndexerError, match=r"other vectors than the engine: the worst cosine of 16 texts is 0\.9"):
        Trainer(adapting.recipe(tmp_path, bert, turned=0.1))


def test_frozen_embeddings_stay(bert: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    last = load_file(train(adapting.recipe(tmp_path, bert, frozen_embeddings=True)) / "model.safetensors")
    base = load_file(Path(bert) / "model.safetensors")
    changed = {name for name, tensor in last.items() if not np.array_equal(tensor.numpy(), base[name].numpy())}
    assert "embeddings.word_embeddings.weight" not in changed
    assert "encoder.layer.0.attention.self.query.weight" in changed


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_low_rank_updates_train_linear_layers_only(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from safetensors.torch import load_file

    base = request.getfixturevalue(kind)
    options = {"steps": 12, "checkpoints": 1, "learning_rate": 1e-2, "lora_rank": 2}
    recipe = adapting.recipe(tmp_path, base, **options)
    Trainer(recipe).advance(12)
    losses = told_losses(recipe)
    assert np.mean(losses[-4:]) < 0.95 * np.mean(losses[:4])
    last, first = (load_file(folder / "model.safetensors") for folder in (recipe.checkpoint(12), Path(base)))
    changes = {name: (tensor - first[name].float()).numpy() for name, tensor in last.items()}
    changed = {name for name, change in changes.items() if change.any()}
    assert changed
    assert all(name.endswith((".weight", "_proj.weight")) and "embed" not in name and "norm" not in name.lower()
               for name in changed)  # fmt: skip
    for name in changed:
        assert np.linalg.matrix_rank(changes[name], tol=1e-5 * np.abs(changes[name]).max() * 10) == 2, name


def test_a_resumed_training_of_low_rank_updates_gives_the_same_weights(bert: str, tmp_path: Path) -> None:
    straight, resumed = (adapting.recipe(tmp_path / name, bert, lora_rank=2) for name in ("straight", "resumed"))
    expected = digests(train(straight))
    Trainer(resumed).advance(2)
    Trainer(resumed).advance(4)
    assert digests(resumed.checkpoint(4)) == expected


@pytest.mark.parametrize("kind", ["bert", "dense", "qwen3"])
def test_only_weights_differ_from_the_base(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(kind)
    recipe = adapting.recipe(tmp_path / "run", base, learning_rate=1e-3)
    train(recipe)
    written = tmp_path / "model"
    weights.write_merged(base, [recipe.checkpoint(step) for step in recipe.ends], 0.5, "auto", written)
    ours, theirs = digests(written), digests(Path(base))
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] != theirs[name]} == set(weights.files(base))
    if kind == "dense":
        assert weights.files(base) == ["2_Dense/model.safetensors", "model.safetensors"]


def test_a_share_of_nothing_is_the_base_bit_for_bit(qwen3: str, tmp_path: Path) -> None:
    recipe = adapting.recipe(tmp_path / "run", qwen3)
    last = train(recipe)
    weights.write_merged(qwen3, [last], 0.0, "auto", tmp_path / "none")
    assert digests(tmp_path / "none") == digests(Path(qwen3))
    weights.write_merged(qwen3, [last], 0.0, "bfloat16", tmp_path / "rounded")
    assert digests(tmp_path / "rounded") != digests(Path(qwen3))


def test_the_learning_rate_rises_and_falls() -> None:
    settings = TrainSettings(steps=20, warmup=0.25, learning_rate=1.0)
    rates = [rate(settings, step) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert rates[19] == pytest.approx(1 / 15)
    assert TrainSettings(steps=1).steps == 1
    assert rate(TrainSettings(steps=1, learning_rate=1.0), 0) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("train_settings", [{}, {"loss": "guided"}, {"lora_rank": 2, "learning_rate": 1e-2}])
def test_two_workers_together_give_the_weights_of_one(
    train_settings: dict[str, Any],
    without_dropout: str,
    tmp_path: Path,
    ray_cluster: None,  # noqa: ARG001
) -> None:
    """Negatives of a batch are the documents of both workers, and gradients their mean."""
    given = [pair for pair in adapting.pairs(80) if pair.negatives]  # an even number of negatives in every batch
    here, there = (
        adapting.recipe(tmp_path / name, without_dropout, given=given, **train_settings) for name in ("here", "there")
    )
    there = replace(there, settings=there.settings.model_copy(update={"workers": 2}))
    with Cluster(ClusterSettings()) as cluster:
        training_worker.train(there, cluster, "none")
    assert there.finished == [2, 4]
    expected, found = (_change(folder, without_dropout) for folder in (train(here), there.checkpoint(4)))
    assert np.linalg.norm(expected) > 1e-3, "it has learnt something"
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    assert told_losses(there) == pytest.approx(told_losses(here), abs=1e-4)
    assert [told.tokens for told in there.log().follow()] == [told.tokens for told in here.log().follow()]


def _change(checkpoint: Path, base: str) -> np.ndarray:
    """All that training has added to the weights, in one array."""
    from safetensors.torch import load_file

    after, before = (load_file(folder / "model.safetensors") for folder in (checkpoint, Path(base)))
    return np.concatenate([(after[name] - before[name].float()).numpy().ravel() for name in sorted(after)])


@pytest.mark.slow
def test_an_error_of_workers_that_train_together_is_told(bert: str, tmp_path: Path, ray_cluster: None) -> None:  # noqa: ARG001
    recipe = adapting.recipe(tmp_path, bert, turned=0.1)
    recipe = replace(recipe, settings=recipe.settings.model_copy(update={"workers": 2}))
    with Cluster(ClusterSettings()) as cluster, pytest.raises(IndexerError, match="other vectors than the engine"):
        training_worker.train(recipe, cluster, "none")


@pytest.mark.slow
def test_more_workers_than_the_machines_have_room_for_are_refused(
    bert: str,
    tmp_path: Path,
    ray_cluster: None,  # noqa: ARG001
) -> None:
    recipe = adapting.recipe(tmp_path, bert, batch=1024, workers=1024)
    with Cluster(ClusterSettings()) as cluster, pytest.raises(SettingsError, match=r"train\.workers: the machines"):
        training_worker.train(recipe, cluster, "none")


@pytest.mark.slow
def test_training_in_a_worker_gives_the_same_weights(bert: str, tmp_path: Path, ray_cluster: None) -> None:  # noqa: ARG001
    """With as many threads as the machine has cores, so that sums are rounded in another order."""
    from safetensors.torch import load_file

    here, there = (adapting.recipe(tmp_path / name, bert) for name in ("here", "there"))
    with Cluster(ClusterSettings()) as cluster:
        training_worker.train(there, cluster, "none")
    assert there.finished == [2, 4]
    expected, found = (load_file(folder / "model.safetensors") for folder in (train(here), there.checkpoint(4)))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert np.allclose(found[name].numpy(), tensor.numpy(), atol=1e-5), name


def _engine_vectors(path: str) -> np.ndarray:
    settings = ModelSettings(name=path, max_tokens=64, dtype="float32")
    model = open_model(settings, EngineSettings(enforce_eager=True))
    tokenizer, engine = model.tokenizer, model.engine()
    return np.concatenate([engine.embed(tokenizer.queries(QUERIES)), engine.embed(tokenizer.truncated(DOCUMENTS))])


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_the_engine_computes_what_sentence_transformers_computes_with_the_written_model(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, engine_process: Executor
) -> None:
    base = request.getfixturevalue(kind)
    recipe = adapting.recipe(tmp_path / "run", base, learning_rate=1e-3)
    train(recipe)
    written = tmp_path / "model"
    weights.write_merged(base, [recipe.checkpoint(step) for step in recipe.ends], 0.75, "auto", written)
    before, after = (np.concatenate(adapting.reference(path, QUERIES, DOCUMENTS)) for path in (base, str(written)))
    ours = engine_process.submit(_engine_vectors, str(written)).result()
    assert (ours * after).sum(axis=1).min() >= 0.9999
    assert (ours * before).sum(axis=1).min() < 0.999, "it has learnt something"
