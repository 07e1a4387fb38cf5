"""Batch indexing with Qwen3-Embedding: Parquet corpora in, LanceDB tables at several Matryoshka widths out.

What a program needs to search a published index is here; everything else is of the commands. The names are imported
when they are first used, so that ``import indexer`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexer.search.hits import Hit
    from indexer.search.published import Published, open_published

__all__ = ["Hit", "Published", "open_published"]

__version__ = "0.1.0"

_HOME = {
    "Hit": "indexer.search.hits",
    "Published": "indexer.search.published",
    "open_published": "indexer.search.published",
}


def __getattr__(name: str) -> object:
    """Imports a name of ``__all__`` from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
