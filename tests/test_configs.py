"""The configs that come with the project."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from indexer.engine import check_arguments
from indexer.quickstart import CORPUS_SCHEMA
from indexer.settings import Settings, command_line, load

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
DIMENSIONS = {"0.6b": 1024, "4b": 2560, "8b": 4096}


def settings(config: Path) -> Settings:
    return load(Settings, command_line(""), ["--config", str(config)])[0]


def keys() -> list[tuple[str, str]]:
    """(section, key) of every setting."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    return [
        (name, key)
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, BaseModel)
        for key in section.model_fields
    ]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_config_loads_and_vllm_knows_its_arguments(config: Path) -> None:
    check_arguments(settings(config).engine.arguments)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_config_names_every_setting(config: Path) -> None:
    sections = dict(re.findall(r"^\[(\w+)\](.*?)(?=^\[|\Z)", config.read_text(), re.MULTILINE | re.DOTALL))
    missing = [
        f"{name}.{key}" for name, key in keys() if not re.search(rf"^(# )?{key} = ", sections[name], re.MULTILINE)
    ]
    assert not missing


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
