"""The configs that come with the project."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from indexer.adapting_settings import AdaptSettings
from indexer.commands.command import command_line, load
from indexer.inference.engine_arguments import check_arguments
from indexer.job_settings import JobSettings
from indexer.settings import EvaluateSettings, ScoreSettings, Settings
from jobs.demo.python_docs import CORPUS_SCHEMA

ROOT = Path(__file__).parents[2]

CONFIGS = sorted((ROOT / "configs").glob("*.toml"))

DIMENSIONS = {"0.6b": 1024, "4b": 2560, "8b": 4096}


def job(config: Path) -> type[JobSettings]:
    if config.stem.startswith("adapt"):
        return AdaptSettings
    if config.stem.startswith("evaluate"):
        return EvaluateSettings
    return ScoreSettings if "reranker" in config.stem else Settings


def settings(config: Path) -> JobSettings:
    return load(job(config), command_line(""), ["--config", str(config)])[0]


def keys(job: type[JobSettings]) -> list[tuple[str, str]]:
    """(section, key) of every setting."""
    return [
        (name, key)
        for name, field in job.model_fields.items()
        for section in [field.annotation, *get_args(field.annotation)]
        if isinstance(section, type) and issubclass(section, BaseModel)
        for key in section.model_fields
    ]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_config_loads_and_vllm_knows_its_arguments(config: Path) -> None:
    check_arguments(settings(config).engine.arguments)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_config_names_every_setting(config: Path) -> None:
    """Those that may be left out in a comment."""
    sections = dict(
        re.findall(r"^(?:# )?\[(\w+)\](.*?)(?=^(?:# )?\[|\Z)", config.read_text(), re.MULTILINE | re.DOTALL)
    )
    missing = [
        f"{name}.{key}"
        for name, key in keys(job(config))
        if not re.search(rf"^(# )?{key} = ", sections[name], re.MULTILINE)
    ]
    assert not missing


@pytest.mark.parametrize("size", DIMENSIONS)
def test_reranker_configs_fit_their_model(size: str) -> None:
    given = settings(ROOT / "configs" / f"qwen3-reranker-{size}.toml")
    assert given.engine.arguments["max_num_batched_tokens"] >= given.model.max_tokens
    assert given.engine.replicas_per_gpu * given.engine.arguments["gpu_memory_utilization"] < 1


@pytest.mark.parametrize(("size", "dimension"), DIMENSIONS.items())
def test_qwen_configs_fit_their_model(size: str, dimension: int) -> None:
    given = settings(ROOT / "configs" / f"qwen3-embedding-{size}.toml")
    engine = given.engine.arguments
    assert given.index.widths[0] == dimension
    assert given.index.widths == sorted(given.index.widths, reverse=True)
    assert engine["max_num_batched_tokens"] >= given.model.max_tokens
    assert given.engine.replicas_per_gpu * engine["gpu_memory_utilization"] < 1


def test_quickstart_config_fits_its_corpus() -> None:
    corpus = settings(ROOT / "configs" / "quickstart.toml").corpus
    assert {corpus.id_column, *corpus.text_columns, *corpus.payload} == set(CORPUS_SCHEMA.names)
