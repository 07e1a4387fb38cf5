"""Settings of a command: TOML file, flags and environment."""

import argparse
import os
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource

from indexer.errors import SettingsError, did_you_mean
from indexer.job_settings import ENV_PREFIX, JobSettings
from indexer.settings import EngineSettings, EvaluateSettings, ScoreSettings, Settings
from indexer.version import __version__

OF_ITS_MODEL = ("revision", "sha256")
"""Keys that are true of the model that ``name`` names, and of no other one."""

JobSettingsT = TypeVar("JobSettingsT", bound=JobSettings)


class CommandLine(argparse.ArgumentParser):
    """Command line of a job whose errors are :class:`SettingsError`, so that every job ends the same way."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of exiting."""
        raise SettingsError(message)


def command_line(description: str) -> CommandLine:
    """Command line with ``--config`` and ``--version``; a job adds flags, :func:`load` adds one per setting."""
    command = CommandLine(description=description, allow_abbrev=False)
    command.add_argument("--version", action="version", version=f"qwen3-index {__version__}")
    command.add_argument(
        "--config",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="TOML file with the settings; given again, a later file's keys go before an earlier one's",
    )
    command.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="SECTION",
        help="leave out this section of the files, e.g. --without known_items",
    )
    return command


def load(
    cls: type[JobSettingsT], command: CommandLine, argv: Sequence[str] | None = None
) -> tuple[JobSettingsT, argparse.Namespace]:
    """Reads the settings of a job.

    Args:
        cls: The job's settings model.
        command: Its command line, from :func:`command_line`.
        argv: Arguments, ``sys.argv[1:]`` by default.

    Returns:
        The settings and the parsed command line with the job's own flags.

    Raises:
        SettingsError: The file cannot be read, a key is unknown (the nearest valid one is named) or a value is not
            allowed.
    """
    if "engine" in cls.model_fields:
        command.epilog = "Every engine argument of vLLM is a setting too: --engine.max_num_seqs 512, for example."
    # A command's own flags, and not the hundred of its settings: those are listed below, section by section.
    command.usage = f"{' '.join(command.format_usage().split()[1:])} [--SECTION.KEY VALUE ...]".replace("%", "%%")
    source: CliSettingsSource[Any] = CliSettingsSource(cls, root_parser=command)
    arguments, engine = _split_engine_flags(sys.argv[1:] if argv is None else argv)
    _refuse_unknown_flags(command, arguments)
    namespace = command.parse_args(arguments)
    content = _merged(map(_read_toml, namespace.config))
    for section in namespace.without:
        if content.pop(section, None) is None:
            raise SettingsError(f"--without {section}: no file has this section{did_you_mean(section, content)}")
    _refuse_unknown_variables(cls)
    try:
        settings = cls(_cli_settings_source=source(parsed_args=namespace), **content)
    except ValidationError as error:
        raise SettingsError(_explain(error, cls)) from None
    if not engine:
        return settings, namespace
    known: Settings | ScoreSettings | EvaluateSettings = settings  # type: ignore[assignment]
    try:
        merged = EngineSettings(**{**known.engine.model_dump(), **engine})
    except ValidationError as error:
        raise SettingsError(_explain(error, cls, "engine")) from None
    return settings.model_copy(update={"engine": merged}), namespace


def refuse_alone(flag: str, needed: str, *, is_alone: object) -> None:
    """Refuses a flag that does nothing without another one.

    Raises:
        SettingsError: It is alone.
    """
    if is_alone:
        raise SettingsError(f"{flag} is read with {needed} only")


def _split_engine_flags(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separates the ``--engine.`` flags: the command line has no list of vLLM's arguments."""
    rest: list[str] = []
    engine: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("--engine."):
            rest.append(word)
            continue
        name, has_value, value = word.removeprefix("--engine.").partition("=")
        if not has_value:
            value = next(words, "")
        if not name or not value or (not has_value and value.startswith("--")):
            raise SettingsError(f"{word} needs a value")
        engine[name] = value
    return rest, engine


def _refuse_unknown_flags(command: argparse.ArgumentParser, argv: Iterable[str]) -> None:
    """Refuses a flag that argparse does not know and names a similar one."""
    known = command._option_string_actions  # noqa: SLF001  # argparse lists its flags nowhere else
    for word in argv:
        flag = word.split("=", 1)[0]
        if flag.startswith("--") and flag != "--" and flag not in known:
            raise SettingsError(f"unknown flag {flag}{did_you_mean(flag, known)}")


def _refuse_unknown_variables(cls: type[BaseSettings]) -> None:
    """Refuses variables of unknown sections. The section's own model refuses unknown keys inside it."""
    for variable in os.environ:
        if not variable.startswith(ENV_PREFIX):
            continue
        section = variable.removeprefix(ENV_PREFIX).split("__")[0].lower()
        if section not in cls.model_fields:
            raise SettingsError(
                f"unknown variable {variable}: no section [{section}]{did_you_mean(section, cls.model_fields)}"
            )


def _merged(files: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Several files as one: of a key in several of them the last one counts."""
    merged: dict[str, Any] = {}
    for content in files:
        for name, section in content.items():
            known = merged.get(name)
            if isinstance(known, dict) and isinstance(section, dict):
                merged[name] = _without_other_model(known, section) | section
            else:
                merged[name] = section
    return merged


def _without_other_model(known: dict[str, Any], section: dict[str, Any]) -> dict[str, Any]:
    """An earlier file's section without what is true of its model only, where a later file names another one."""
    if section.get("name", known.get("name")) == known.get("name"):
        return known
    return {key: value for key, value in known.items() if key not in OF_ITS_MODEL}


def _read_toml(path: Path) -> dict[str, Any]:
    """Content of a settings file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read settings {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings {path} are not TOML: {error}") from None


def _explain(error: ValidationError, cls: type[BaseSettings], *within: str) -> str:
    """One line per problem, with the key as it is written in the file and never the value."""
    return "; ".join(
        _explain_one(problem["type"], (*within, *problem["loc"]), problem["msg"], cls) for problem in error.errors()
    )


def _explain_one(kind: str, location: tuple[int | str, ...], message: str, cls: type[BaseSettings]) -> str:
    """One problem of the settings, in words."""
    key = ".".join(str(part) for part in location)
    if kind != "extra_forbidden":
        return ": ".join(part for part in (key, message.removeprefix("Value error, ")) if part)
    if len(location) == 1:
        return f"unknown section [{key}]{did_you_mean(key, cls.model_fields)}"
    section = cls.model_fields[str(location[0])].annotation
    choices = [section, *get_args(section)]  # a section that may be left out is a union with None
    known = next((kind.model_fields for kind in choices if isinstance(kind, type) and issubclass(kind, BaseModel)), {})
    return f"unknown key {key}{did_you_mean(str(location[-1]), known)}"
