"""The settings that make a configuration, as TOML that the commands take."""

from typing import Any

from indexer.evaluation.configurations import Configuration
from indexer.settings import RerankerSettings
from indexer.storage.description import TextRecord
from indexer.toml_text import section


def block(
    configuration: Configuration,
    oversample: int,
    candidates: int,
    text: TextRecord | None,
    reranker: RerankerSettings | None,
) -> str:
    """A file for ``--config``, after the file of the index: jobs.index and jobs.search take it as it is.

    Args:
        configuration: The configuration.
        oversample: How many times the results are searched for where they are rescored.
        candidates: Results that the reranker orders.
        text: Columns and tokenizer of full-text search, for configurations with text.
        reranker: The reranker, for configurations with one.
    """
    index: dict[str, Any] = {
        "widths": configuration.widths,
        "precision": configuration.precision,
        "vector_index": configuration.index,
    }
    search: dict[str, Any] = {
        "mode": configuration.mode,
        "width": configuration.width,
        "oversample": oversample if configuration.rescored else 1,
    }
    if configuration.mode != "vector" and text is not None:
        index |= {"text_search": text.columns, "text": text.model_dump(exclude={"columns"})}
    sections = {"index": index, "search": search}
    if configuration.reranked and reranker is not None:
        search["candidates"] = candidates
        sections["reranker"] = reranker.model_dump(exclude_unset=True)
    return "\n".join(section(name, values) for name, values in sections.items())
