"""Prints every setting with its type, default and meaning, as Markdown: ``make settings`` writes configs/README.md."""

import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from indexer.adapting_settings import AdaptSettings
from indexer.commands.entry import execute
from indexer.job_settings import ENV_PREFIX, JobSettings
from indexer.settings import EvaluateSettings, ScoreSettings, Settings

JOBS: Mapping[str, type[JobSettings]] = {
    "index, search, epochs": Settings,
    "score": ScoreSettings,
    "evaluate": EvaluateSettings,
    "adapt": AdaptSettings,
}
"""Settings by the commands that read them."""

NAMES: dict[Any, str] = {
    Any: "any",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
}

HEAD = f"""# Settings

Every setting of every command, with its type, default and meaning. This page is printed from the settings themselves:
`make settings` writes it anew.

A command reads a TOML file, named with `--config`; given again, a later file's keys go before an earlier one's. A
variable goes before the files, and a flag before both:

| where | written as |
| --- | --- |
| file | `[index]` and `widths = [1024, 256]` |
| environment | `{ENV_PREFIX}INDEX__WIDTHS='[1024, 256]'` |
| flag | `--index.widths 1024,256` |

`--without SECTION` leaves a section of the files out. An unknown key is refused with the nearest valid one. A
relative path is one from the folder of the command; in a job that was submitted to a cluster it is refused. A URI
with credentials is refused: they come from the environment.

The files in this folder are complete: `quickstart.toml`, one for each size of Qwen3-Embedding and Qwen3-Reranker, and
`evaluate.toml` and `adapt.toml` with their small brothers for the quickstart. Their `[engine]` values for GPUs are
advice: packed steps ran on an H100, two replicas and steps of 32,768 tokens have not.
"""


TABLE_HEAD = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"


def main() -> None:
    """Prints the page."""
    print(page(), end="")


def page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(_job(names, job) for names, job in JOBS.items())


def _job(names: str, job: type[JobSettings]) -> str:
    """The part of the page for one group of commands."""
    commands = ", ".join(f"`{name}`" for name in names.split(", "))
    sections = "".join(_section(name, field, job) for name, field in job.model_fields.items())
    return f"\n## Commands {commands}\n{sections}" if ", " in names else f"\n## Command {commands}\n{sections}"


def _section(name: str, field: FieldInfo, job: type[JobSettings]) -> str:
    """A section's heading and table; a section described before is only referred to."""
    model = _model(field)
    head = f"\n### `[{name}]`\n\n{(model.__doc__ or '').splitlines()[0].replace('``', '`')}"
    if not field.is_required():
        head += " May be left out."
    names, first = next(
        (names, known)
        for names, known in JOBS.items()
        if name in known.model_fields and _model(known.model_fields[name]) is model
    )
    if first is not job:
        return f"{head} Keys as for `{names.split(', ')[0]}`.\n"
    rows = "".join(_row(key, setting) for key, setting in model.model_fields.items())
    more = ""
    if model.model_config.get("extra") == "allow":
        more = "\nEvery engine argument of vLLM is a key too, by its own name, e.g. `max_num_seqs = 512`.\n"
    nested = "".join(_nested(name, key, setting) for key, setting in model.model_fields.items())
    return f"{head}\n\n{TABLE_HEAD}{rows}{more}{nested}"


def _nested(name: str, key: str, field: FieldInfo) -> str:
    """The table of a section in a section; empty for any other setting."""
    model = field.annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    rows = "".join(_row(inner, setting) for inner, setting in model.model_fields.items())
    return f"\n### `[{name}.{key}]`\n\n{(model.__doc__ or '').splitlines()[0]}\n\n{TABLE_HEAD}{rows}"


def _model(field: FieldInfo) -> type[BaseModel]:
    """Model of a section; an optional section is a union with None."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


def _row(key: str, field: FieldInfo) -> str:
    """One setting as a row of the table."""
    cells = [
        f"`{key}`",
        " or ".join(_kinds(field.annotation)) + _bounds(field),
        _default(field),
        field.description or "",
    ]
    return "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |\n"


def _kinds(annotation: Any) -> Iterator[str]:
    """The types of an annotation in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _kinds(arguments[0])
    elif origin in {Union, types.UnionType}:
        for argument in arguments:
            if argument is not type(None):
                yield from _kinds(argument)
    elif origin is Literal:
        yield from (f"`{value}`" for value in arguments)
    elif origin is list:
        yield "list of " + " or ".join(_kinds(arguments[0]))
    elif origin is dict:
        yield "table of " + " or ".join(_kinds(arguments[1]))
    else:
        yield NAMES.get(annotation, "table")  # a section in a section


def _bounds(field: FieldInfo) -> str:
    """Bounds of a number, in words."""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{words} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, words in signs.items()
        if hasattr(limit, name)
    ]
    return ", " + ", ".join(found) if found else ""


def _default(field: FieldInfo) -> str:
    """A setting's default, in words."""
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    return "none" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    execute(main)
