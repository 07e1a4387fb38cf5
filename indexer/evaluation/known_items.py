"""Queries made of an index's own documents: each must find the document it was taken from, which then lacks it.

Known-item search needs no judgements (Azzopardi, de Rijke and Balog 2007, "Building simulated queries for known-item
topics"). A query that stands in its document word by word would be found by any index; so it is taken out of the text
that is indexed for the evaluation.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import polars as pl

from indexer import schema
from indexer.errors import CorpusError
from indexer.evaluation.judgements import Questions
from indexer.evaluation_settings import KnownItemsSettings
from indexer.search.snapshot import Snapshot

FIRST_SENTENCE = "first_sentence"

OVERDRAWN = 4
"""Documents looked at for each one wanted: some have no sentence, or nothing beside it."""

LEAST_WORDS = 5
"""Of a sentence that can be asked for, and of what must be left of its document."""

PARAGRAPH = re.compile(r"(?:.+\n?)+")

SENTENCE_END = re.compile(r"[.!?。！？](?=\s|\Z)")

DRAWING_SEED = 0
"""The same index always gives the same documents."""


def make(published: Snapshot, settings: KnownItemsSettings) -> Questions:
    """Draws documents and makes a query of each.

    Args:
        published: The index; its payload must hold the text.
        settings: What the query is.

    Returns:
        Queries under their documents' ids, and what is left of these documents' texts.

    Raises:
        SettingsError: The payload has not the text or the column.
        CorpusError: No document gives a query.
    """
    names = drawn(published, OVERDRAWN * settings.count)
    found: dict[str, tuple[str, str]] = {}
    asked: set[str] = set()
    looked_at = 0
    for name, (words, rest) in zip(names, parts(published, names, settings.query), strict=True):
        if len(found) == settings.count:
            break
        looked_at += 1
        if not words or words in asked or len(rest.split()) < LEAST_WORDS:
            continue
        asked.add(words)
        found[name] = words, rest
    if not found:
        raise CorpusError(f"known_items.query: none of {looked_at} documents gives a query with {settings.query}")
    return Questions(
        {name: query for name, (query, _) in found.items()},
        {name: {name: 1} for name in found},
        {name: rest for name, (_, rest) in found.items()},
        {"drawn documents without a usable query": looked_at - len(found)} if looked_at > len(found) else {},
    )


def parts(published: Snapshot, names: Sequence[str], query: str) -> list[tuple[str, str]]:
    """A query of each document, and the document's text without it.

    Args:
        published: The index.
        names: Ids of documents.
        query: As ``known_items.query``.

    Returns:
        Both texts; an empty query and the whole text where the document gives none.

    Raises:
        SettingsError: The payload has not the text or the column.
    """
    texts = [text or "" for text in published.texts(names)]
    if query == FIRST_SENTENCE:
        queries = [first_sentence(text) for text in texts]
    else:
        queries = [None if value is None else str(value) for value in published.column(names, query)]
    return [_without(text, given or "") for text, given in zip(texts, queries, strict=True)]


def _without(text: str, query: str) -> tuple[str, str]:
    """A query in one line, and a text without it; inside words it stays ("re" in "return")."""
    words = " ".join(query.split())
    if not words:
        return words, text

    def kept(found: re.Match[str]) -> str:
        before, after = text[: found.start()][-1:], text[found.end() :][:1]
        return found[0] if _is_one_word(before, query[0]) or _is_one_word(query[-1], after) else ""

    return words, re.sub(re.escape(query), kept, text).strip()


def _is_one_word(left: str, right: str) -> bool:
    """Whether two neighbouring characters, one of which may be missing, are of one word.

    Letters without upper and lower case are never: Chinese, Japanese and Thai put no space between words.
    """
    return all(one.isalnum() and unicodedata.category(one) != "Lo" for one in (left, right))


def drawn(published: Snapshot, count: int) -> list[str]:
    """Ids of documents, the same for the same index: those whose hashes are least."""
    best = pl.DataFrame(schema={schema.ID: pl.String, "hash": pl.UInt64})
    for batch in published.batches([schema.ID, schema.CHUNK]):
        frame = pl.DataFrame(pl.from_arrow(batch)).filter(pl.col(schema.CHUNK) == 0)
        hashed = frame.select(pl.col(schema.ID), pl.col(schema.ID).hash(DRAWING_SEED).alias("hash"))
        best = pl.concat([best, hashed]).sort("hash", schema.ID).head(count)
    return best[schema.ID].to_list()


def first_sentence(text: str) -> str | None:
    """The first sentence of at least five words, as it stands in the text; a heading without an end is none."""
    return next((sentence for sentence in _sentences(text) if len(sentence.split()) >= LEAST_WORDS), None)


def _sentences(text: str) -> Iterator[str]:
    """Sentences of a text, none across a paragraph."""
    for paragraph in PARAGRAPH.finditer(text):
        start = paragraph.start()
        for end in SENTENCE_END.finditer(text, paragraph.start(), paragraph.end()):
            yield text[start : end.end()].strip()
            start = end.end()
