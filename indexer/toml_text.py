"""Settings as the text of a TOML file (https://toml.io/en/v1.0.0)."""

import json
import re
from collections.abc import Mapping
from typing import Any

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
"""Keys that need no quotation marks."""


def section(name: str, values: Mapping[str, Any]) -> str:
    """A section, each setting on a line of its own; ``None`` is left out."""
    return f"[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in values.items() if value is not None)


def _value(value: Any) -> str:
    """A value: JSON but for tables."""
    if isinstance(value, Mapping):
        given = [f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None]
        return "{ " + ", ".join(given) + " }" if given else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    """A key, quoted where TOML wants it."""
    return key if BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
