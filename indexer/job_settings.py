"""Where a job's settings come from: TOML file < environment (``INDEXER_SECTION__KEY``) < command line."""

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX = "INDEXER_"
"""What every environment variable with a setting begins with."""


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
