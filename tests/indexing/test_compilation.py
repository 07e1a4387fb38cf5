"""Engines compile only if their work outweighs it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from indexer.indexing import compilation
from indexer.indexing.compilation import PAYS_SECONDS, fitted
from indexer.indexing.job import open_job
from tests.support.fakes import settings, words, write

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
    text_bytes = int(seconds * LAST_RATE * compilation.BYTES_PER_TOKEN)
    model = fitted(job, text_bytes, 2, gpus=False)
    assert model.engine_settings.arguments == expected
    assert model.fingerprint == job.model.fingerprint
    assert model.spec.arguments == expected


def test_before_the_first_run_the_models_size_decides(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(3))
    job = open_job(settings(tmp_path))
    per_token = job.model.checkpoint.weight_bytes / compilation.CPU_RATE
    enough = int(2 * PAYS_SECONDS / per_token * compilation.BYTES_PER_TOKEN)
    assert "enforce_eager" in fitted(job, enough // 2, 2, gpus=False).engine_settings.arguments
    assert "enforce_eager" not in fitted(job, enough + 10_000, 2, gpus=False).engine_settings.arguments
    assert "enforce_eager" in fitted(job, enough + 10_000, 2, gpus=True).engine_settings.arguments
