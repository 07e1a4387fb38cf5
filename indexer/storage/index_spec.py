"""What an index is to be: its name, column, kind and parameters, as Lance takes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class IndexSpec:
    """An index that a table is to have.

    Attributes:
        name: Its name.
        column: The column that it is of.
        kind: Lance's name of the type; ``None`` if the column's values decide between B-tree and bitmap.
        parameters: Parameters of the type, by Lance's names.
    """

    name: str
    column: str
    kind: str | None
    parameters: Mapping[str, Any] = field(default_factory=dict)
