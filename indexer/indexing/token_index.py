"""Settings of an index of token vectors, which the model of a late interaction gives."""

from typing import Any

from indexer.errors import SettingsError
from indexer.inference.late_interaction import LateInteraction
from indexer.inference.model import Model
from indexer.settings import Settings

SHARD_MB = 1.0
"""MiB of text of a shard by default. A worker holds its vectors: 128 MB in float32 at 128 components."""

WHY = "the model gives a vector of every token (late interaction)"


def fitted(settings: Settings, model: Model) -> Settings:
    """The settings with what follows from a late-interaction model; unchanged for all other models.

    Its index has one table of the vectors' own width, which is searched exactly.

    Raises:
        SettingsError: They ask for what token vectors do not have; nothing was started.
    """
    late = model.late_interaction
    if late is None:
        return settings
    _refuse_others(settings, late)
    index = settings.index.model_copy(update={"widths": [late.dimension], "vector_index": "none"})
    changed: dict[str, Any] = {"index": index}
    if "shard_mb" not in settings.run.model_fields_set:
        changed["run"] = settings.run.model_copy(update={"shard_mb": SHARD_MB})
    return settings.model_copy(update=changed)


def _refuse_others(settings: Settings, late: LateInteraction) -> None:
    """Refuses settings that have no meaning for token vectors, by name."""
    index = settings.index
    if "widths" in index.model_fields_set and index.widths != [late.dimension]:
        raise SettingsError(f"index.widths: {WHY}, of {late.dimension} components and not of widths; leave it out")
    if index.vector_index not in {"auto", "none"}:
        raise SettingsError(f"index.vector_index: {WHY}, and these are searched without an index; set it to none")
    if index.metric != "cosine":
        raise SettingsError(f"index.metric: {WHY}, and these are compared by cosine; leave it out")
    if settings.engine.packed == "on":
        raise SettingsError(f"engine.packed is on: {WHY}, and packed steps give one of each text; set it to auto")
