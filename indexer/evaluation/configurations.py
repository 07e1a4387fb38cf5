"""Ways to search an index that are evaluated side by side: width, precision, vector index, stages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from indexer.errors import SettingsError
from indexer.evaluation_settings import CompareSettings
from indexer.search_settings import Mode
from indexer.storage.vector_index import NO_INDEX


@dataclass(frozen=True)
class Configuration:
    """One way to search.

    Attributes:
        width: Matryoshka width that is searched.
        precision: ``float32`` or ``float16``, how vector components are stored.
        index: Type of the vector index, ``none`` for exact search.
        rescored: Width at which results are rescored; ``None`` for one stage.
        mode: By vectors, by words alone, or by both.
        reranked: Whether a reranker orders what is found.
    """

    width: int
    precision: str
    index: str = NO_INDEX
    rescored: int | None = None
    mode: Mode = "vector"
    reranked: bool = False

    @property
    def name(self) -> str:
        """What it is called in reports, e.g. ``96 float32 IVF_SQ, rescored at 384``."""
        how = "exact" if self.index == NO_INDEX else self.index
        parts = ["text alone"] if self.mode == "text" else [f"{self.width} {self.precision} {how}"]
        parts += [f"rescored at {self.rescored}"] if self.rescored else []
        parts += ["with text"] if self.mode == "hybrid" else []
        parts += ["reranked"] if self.reranked else []
        return ", ".join(parts)

    @property
    def widths(self) -> list[int]:
        """Widths whose tables it needs, widest first."""
        return sorted({self.width, self.rescored or self.width}, reverse=True)


def listed(
    settings: CompareSettings, published: Sequence[int], precision: str, *, reranked: bool
) -> list[Configuration]:
    """All configurations, the widest exact one first: it is the reference.

    Args:
        settings: What to compare.
        published: Widths of the index.
        precision: How the index stores its vectors.
        reranked: Whether there is a reranker.

    Returns:
        The configurations. A float16 index gives none of float32: what was rounded off is gone.

    Raises:
        SettingsError: A width is above the widest published one.
    """
    widths = sorted(settings.widths or published, reverse=True)
    if widths[0] > max(published):
        raise SettingsError(f"compare.widths: {widths[0]} is above {max(published)}, the widest of the index")
    return list(dict.fromkeys(_all(settings, widths, precision, reranked=reranked)))


def _all(settings: CompareSettings, widths: Sequence[int], own: str, *, reranked: bool) -> Iterator[Configuration]:
    """Every configuration that the settings ask for, some of them twice."""
    others = [kind for kind in settings.precisions if kind not in {own, "float32"}]
    yield from (Configuration(width, precision) for precision in [own, *others] for width in widths)
    indices = [NO_INDEX, *settings.vector_indices]
    yield from (Configuration(width, own, index) for index in indices for width in widths)
    yield from (Configuration(width, own, index, rescored=widths[0]) for index in indices for width in widths[1:])
    if settings.text_search:
        yield from (Configuration(width, own, mode="hybrid") for width in widths)
        yield Configuration(widths[-1], own, mode="text")
    modes: list[Mode] = ["vector", "hybrid"] if settings.text_search else ["vector"]
    if reranked:
        yield from (Configuration(width, own, mode=mode, reranked=True) for mode in modes for width in widths)
