"""Engines compile only if their work outweighs it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from indexer.indexing import compilation
from indexer.indexing.compilation import fitted
from indexer.indexing.job import open_job
from indexer.inference.compiling import BYTES_PER_TOKEN, CPU_RATE, CPU_SAVED, GPU_SAVED, PAYS_SECONDS
from tests.support.fakes import run_here, settings, words, write
from tests.support.local_cluster import LocalPool

pytestmark = pytest.mark.heavy

LAST_RATE = 1000.0


@pytest.mark.parametrize(
    ("engine", "seconds", "expected"),
    [
        ({}, PAYS_SECONDS - 1, {"enforce_eager": True}),
        ({}, PAYS_SECONDS, {}),
        ({"enforce_eager": False}, 1, {"enforce_eager": False}),
        ({"optimization_level": 1}, 1, {"optimization_level": 1}),
        ({"max_num_seqs": 8}, 1, {"max_num_seqs": 8, "enforce_eager": True}),
    ],
)
def test_short_work_is_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: dict[str, object], seconds: float,
    expected: dict[str, object],
) -> None:  # fmt: skip
    monkeypatch.setattr(compilation, "last_run", lambda _: SimpleNamespace(tokens_per_second=LAST_RATE))
    write(tmp_path / "corpus" / "a.parquet", words(3))
    job = open_job(settings(tmp_path, engine=engine))
    text_bytes = int(seconds * LAST_RATE * BYTES_PER_TOKEN)
    model = fitted(job, text_bytes, 2, gpus=False)
    assert model.engine_settings.arguments == expected
    assert model.fingerprint == job.model.fingerprint
    assert model.spec.arguments == expected


def test_before_the_first_run_the_models_size_decides(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(3))
    job = open_job(settings(tmp_path))
    per_token = job.model.checkpoint.weight_bytes / CPU_RATE
    enough = int(2 * PAYS_SECONDS / per_token * BYTES_PER_TOKEN)
    assert "enforce_eager" in fitted(job, enough // 2, 2, gpus=False).engine_settings.arguments
    assert "enforce_eager" not in fitted(job, enough + 10_000, 2, gpus=False).engine_settings.arguments
    assert "enforce_eager" in fitted(job, enough + 10_000, 2, gpus=True).engine_settings.arguments


@pytest.mark.parametrize(
    ("cost", "gpus", "pays"),
    [
        (0.0, False, PAYS_SECONDS),
        (11.0, False, PAYS_SECONDS),
        (60.0, False, 60 / CPU_SAVED),
        (25.0, True, 25 / GPU_SAVED),
    ],
)
def test_what_compiling_took_in_the_last_run_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cost: float, gpus: bool, pays: float
) -> None:
    """A night whose engines did not compile, here the second one, says nothing about it."""
    corpus = tmp_path / "corpus" / "a.parquet"
    for night, compiled in enumerate((cost, 0.0)):
        monkeypatch.setattr(LocalPool, "compile_seconds", compiled)
        write(corpus, words(10 + night))
        assert run_here(settings(tmp_path))["compile_seconds"] == compiled
    monkeypatch.setattr(compilation, "last_run", lambda _: SimpleNamespace(tokens_per_second=LAST_RATE))
    job = open_job(settings(tmp_path))
    for seconds, is_eager in ((pays - 1, True), (pays + 1, False)):
        model = fitted(job, int(seconds * LAST_RATE * BYTES_PER_TOKEN), 2, gpus=gpus)
        assert ("enforce_eager" in model.engine_settings.arguments) == is_eager
