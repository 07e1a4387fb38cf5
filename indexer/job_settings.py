"""What settings are made of, and where they come from: file < environment (``INDEXER_SECTION__KEY``) < command line."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX = "INDEXER_"
"""What every environment variable with a setting begins with."""

MIN_WIDTH = 32
"""Smallest Matryoshka width Qwen3-Embedding was trained for (model card)."""

IndexType = Literal["IVF_FLAT", "IVF_PQ", "IVF_SQ", "IVF_RQ", "IVF_HNSW_SQ", "IVF_HNSW_PQ"]


class Section(BaseModel):
    """A table of the settings file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CheckpointSettings(Section):
    """A model's files and how they are computed with."""

    name: str = Field(description="hub id or local directory")
    revision: str | None = Field(None, description="hub commit, branch or tag; pin a commit")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="dtype of the computation; auto: the checkpoint's own"
    )
    sha256: dict[str, str] = Field(
        {}, description="SHA-256 of the model's files by name, checked before a run; a file that differs ends it"
    )
    quantization: str | None = Field(None, description="precision of the computation by vLLM's name, e.g. fp8")
    hf_overrides: dict[str, Any] = Field({}, description="other values of config.json, e.g. rope_parameters for YaRN")


class JobSettings(BaseSettings):
    """Base of every job's settings: sources, their order and the errors."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_kebab_case=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before the file's content, which comes in as keyword arguments."""
        return env_settings, init_settings
