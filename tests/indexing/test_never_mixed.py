"""Vectors of another model, or of the same one computed otherwise, never reach a published table."""

from pathlib import Path
from typing import Any

import pytest

from indexer.errors import SettingsError
from indexer.search.published import open_published
from tests.support.fakes import run, settings, words, write

pytestmark = pytest.mark.usefixtures("ray_cluster")

OTHERWISE = [
    {"model": {"hf_overrides": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}}},
    {"model": {"quantization": "fp8"}},
    {"model": {"pooler_config": {"seq_pooling_type": "CLS"}}},
    {"engine": {"kv_cache_dtype": "fp8"}},
]


def named(sections: dict[str, dict[str, Any]]) -> str:
    ((section, given),) = sections.items()
    (key,) = given
    return key if section == "model" else f"{section}.{key}"


def given(root: Path, **sections: dict[str, Any]) -> Any:
    model = {"name": settings(root).model.name, "max_tokens": 128} | sections.pop("model", {})
    return settings(root, model=model, **sections)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:  # noqa: ARG001
    """An index with one more document to embed than it has."""
    root = tmp_path_factory.mktemp("index")
    write(root / "corpus" / "a.parquet", words(40))
    run(given(root))
    write(root / "corpus" / "b.parquet", [("new", "one more")])
    return root


@pytest.mark.parametrize("sections", OTHERWISE, ids=named)
def test_a_night_with_another_computation_is_refused_by_name(
    sections: dict[str, dict[str, Any]], published: Path
) -> None:
    with pytest.raises(SettingsError, match=rf"built with other {named(sections)};"):
        run(given(published, **sections))
    assert open_published(str(published / "index"), "docs").epoch.number == 1


def test_a_reader_with_another_computation_is_refused_by_name(published: Path) -> None:
    reader = open_published(str(published / "index"), "docs", engine={"kv_cache_dtype": "fp8"})
    with pytest.raises(SettingsError, match=r'engine\.kv_cache_dtype: index None, query model "fp8"'):
        _ = reader.model


def test_readers_take_the_models_settings_from_the_epoch(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(20))
    run(given(tmp_path, model={"pooler_config": {"use_activation": True}}))
    model = open_published(str(tmp_path / "index"), "docs").model
    assert model.spec.overrides == {"pooler_config": {"use_activation": True}}
