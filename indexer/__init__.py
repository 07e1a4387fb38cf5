"""Batch indexing with Qwen3-Embedding: Parquet corpora in, LanceDB tables at several Matryoshka widths out.

What a program needs to search a published index is here, and ``judgements``, which reads queries and judgements as an
evaluation does; everything else is of the commands. The names are imported when they are first used, so that
``import indexer`` costs nothing.
"""

import pkgutil
from typing import TYPE_CHECKING

from indexer.version import __version__ as __version__  # part of the face, not of a star import

if TYPE_CHECKING:
    from indexer.evaluation import judgements
    from indexer.search.hits import Hit
    from indexer.search.published import Published, open_published

__all__ = ["Hit", "Published", "judgements", "open_published"]

_HOME = {
    "Hit": "indexer.search.hits:Hit",
    "Published": "indexer.search.published:Published",
    "judgements": "indexer.evaluation.judgements",
    "open_published": "indexer.search.published:open_published",
}


def __getattr__(name: str) -> object:
    """Imports a name of ``__all__`` from its home, or a module that is one."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(_HOME[name])


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
