"""Fingerprints: what may change a number is in them by name, what cannot is not."""

from typing import Any

import pytest

from indexer.errors import SettingsError
from indexer.inference.engine_arguments import HARMLESS_NAMES, PARALLEL, argument_names, check_arguments
from indexer.inference.model import Model, Reranker, open_model, open_reranker
from indexer.settings import EngineSettings, ModelSettings, RerankerSettings
from tests.support.checkpoints import cross_encoder


@pytest.fixture(scope="module")
def reranker_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small cross-encoder."""
    return cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


OLD_KEYS = {"weights", "tokenizer", "max_tokens", "overflow", "dtype"}

YARN = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000000.0}}

MODEL_SETTINGS = [
    {"quantization": "fp8"},
    {"hf_overrides": YARN},
    {"pooler_config": {"seq_pooling_type": "MEAN"}},
]


def model(path: str, engine: dict[str, Any] | None = None, **settings: Any) -> Model:
    return open_model(ModelSettings(name=path, max_tokens=128, **settings), EngineSettings(**engine or {}))


def reranker(path: str, engine: dict[str, Any] | None = None, **settings: Any) -> Reranker:
    return open_reranker(RerankerSettings(name=path, max_tokens=128, **settings), EngineSettings(**engine or {}))


@pytest.mark.parametrize("given", MODEL_SETTINGS, ids=lambda given: next(iter(given)))
def test_settings_of_the_model_are_in_it(given: dict[str, Any], minilm_path: str, reranker_path: str) -> None:
    (name,) = given
    for made in (model(minilm_path, **given), reranker(reranker_path, **given)):
        assert made.fingerprint[name]
        assert made.spec.overrides == given


@pytest.mark.parametrize("given", [{"kv_cache_dtype": "fp8"}, {"attention_backend": "TORCH_SDPA"}, {"seed": 3}])
def test_engine_arguments_that_may_change_a_number_are_in_it(
    given: dict[str, Any], minilm_path: str, reranker_path: str
) -> None:
    (name,) = given
    for made in (model(minilm_path, given), reranker(reranker_path, given)):
        assert made.fingerprint[f"engine.{name}"]


def test_harmless_arguments_change_nothing(minilm_path: str, reranker_path: str) -> None:
    given = {
        "gpu_memory_utilization": 0.5,
        "max_num_batched_tokens": 4096,
        "max_num_seqs": 7,
        "enforce_eager": True,
        "block_size": 32,
        "log_level": "debug",
        "replicas_per_gpu": 2,
        "slowest": 5.0,
    }
    assert model(minilm_path, given).fingerprint == model(minilm_path).fingerprint
    assert model(minilm_path).fingerprint.keys() == OLD_KEYS
    assert reranker(reranker_path, given).fingerprint == reranker(reranker_path).fingerprint
    assert reranker(reranker_path).fingerprint.keys() == {"weights", "tokenizer", "dtype"}


def test_what_is_harmless_is_an_argument_of_vllm() -> None:
    """A name that vLLM no longer has would be a hole or a mistake."""
    assert set(argument_names()) >= HARMLESS_NAMES
    check_arguments(dict.fromkeys(HARMLESS_NAMES - {*PARALLEL}))


@pytest.mark.parametrize("name", ["quantization", "hf_overrides", "pooler_config"])
def test_what_decides_the_meaning_of_a_vector_is_no_engine_argument(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"engine\.{name} cannot be set; set model\.{name}"):
        check_arguments({name: "fp8"})


def test_a_rerankers_positions_limit_its_prompts(reranker_path: str) -> None:
    assert open_reranker(RerankerSettings(name=reranker_path), EngineSettings()).max_tokens == 512
    with pytest.raises(SettingsError, match="max_tokens: 600 is above the 512 positions"):
        open_reranker(RerankerSettings(name=reranker_path, max_tokens=600), EngineSettings()).max_tokens  # noqa: B018
