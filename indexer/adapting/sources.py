"""Where pairs come from: judgements, titles that are taken out of their documents, queries that a generator writes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from indexer.adapting.pairs import Pair
from indexer.adapting_settings import AdaptSettings, WrittenSettings
from indexer.errors import CorpusError
from indexer.evaluation import judgements, known_items, synthetic
from indexer.evaluation.judgements import Questions
from indexer.evaluation.synthetic import Score, Write
from indexer.search.published import Published

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Control characters but the tab and the ends of lines."""


@dataclass(frozen=True)
class Texts:
    """Texts of an index's documents as they are trained on.

    Attributes:
        published: The index.
        query: As ``titles.query``: what every document lacks; ``None`` if texts stay whole.
    """

    published: Published
    query: str | None

    def of(self, ids: Sequence[str]) -> list[str]:
        """Text of each document, empty where the index has none."""
        if self.query is None:
            found = [text or "" for text in self.published.texts(ids)]
        else:
            # Of negatives too: a title would tell them from the documents that answer.
            found = [rest for _, rest in known_items.parts(self.published.snapshot, ids, self.query)]
        return [self.clean(text) for text in found]

    def clean(self, text: str) -> str:
        """A text without control tokens and characters, which other trainers would read as control."""
        for token in self.published.model.tokenizer.special:
            text = text.replace(token, " ")
        return CONTROL.sub(" ", text).strip()


def judged(settings: AdaptSettings, texts: Texts) -> list[Pair]:
    """Pairs of the given queries with all documents that they were judged with.

    Args:
        settings: Names the queries and judgements.
        texts: The documents.

    Raises:
        CorpusError: They cannot be read, or name no document of the index.
    """
    if settings.queries is None or settings.judgements is None:
        return []
    found = judgements.checked_in(judgements.read(settings.queries, settings.judgements), texts.published)
    rows = [(name, document, grade) for name, grades in found.judgements.items() for document, grade in grades.items()]
    documents = texts.of([document for _, document, _ in rows])
    pairs = [
        Pair(name, texts.clean(found.texts[name]), document, text, "judgements", grade)
        for (name, document, grade), text in zip(rows, documents, strict=True)
    ]
    return pairs if settings.trains_on_judgements else [replace(pair, split="test") for pair in pairs]


def titled(settings: AdaptSettings, texts: Texts) -> list[Pair]:
    """Pairs of a title, or a first sentence, and its document without it; none if the settings have no such section."""
    if settings.titles is None:
        return []
    found = known_items.make(texts.published.snapshot, settings.titles)
    return [
        Pair(name, texts.clean(query), name, texts.clean(found.altered[name]), "titles")
        for name, query in found.texts.items()
    ]


def written(texts: Texts, writer: synthetic.Writer, write: Write, score: Score) -> tuple[list[Pair], dict[str, int]]:
    """Pairs of a query that a generator wrote and its document.

    Args:
        texts: The documents.
        writer: The generator's prompts; its settings are :class:`indexer.adapting_settings.WrittenSettings`.
        write: Gives what the generator writes after prompts.
        score: Gives the reranker's scores of queries with documents.

    Returns:
        Pairs whose document answers the query by the reranker, with the drawn values, and counts of the rest.

    Raises:
        CorpusError: No pair is left.
    """
    settings = writer.settings
    if not isinstance(settings, WrittenSettings):
        raise TypeError("internal error: the generator has no values to draw")
    names = known_items.drawn(texts.published.snapshot, settings.count)
    documents = texts.of(names)
    values = [draw(settings.values, name) for name in names]
    queries = [texts.clean(writer.query(ids)) for ids in write(writer.prompts(documents, values))]
    scores = score(queries, documents)
    rows = zip(names, queries, documents, values, scores.tolist(), strict=True)
    pairs = [
        Pair(name, query, name, document, "synthetic", drawn=drawn, score=value)
        for name, query, document, drawn, value in rows
        if query and document and value >= settings.least_score
    ]
    if not pairs:
        raise CorpusError(
            f"synthetic: no query is left of {len(names)}: all are empty or have a score below synthetic.least_score = "
            f"{settings.least_score}"
        )
    unanswered = sum(bool(query) for query in queries) - len(pairs)
    notes = {"written queries that are empty": len(names) - unanswered - len(pairs)}
    return pairs, notes | {"written queries that the reranker finds unanswered": unanswered}


def draw(values: Mapping[str, Sequence[str]], document_id: str) -> dict[str, str]:
    """One value of every name for a document, the same whenever it is drawn."""
    rng = Random(document_id)  # noqa: S311  # draws words of a prompt, no secret
    return {name: rng.choice(values[name]) for name in sorted(values)}


def questions(pairs: Sequence[Pair], split: str, published: Published) -> Questions:
    """The queries of a split, as an evaluation asks them.

    Args:
        pairs: All pairs.
        split: ``validation`` or ``test``.
        published: The index.

    Returns:
        Queries and judgements. Documents lack what their query was taken from.
    """
    chosen = [pair for pair in pairs if pair.split == split]
    grades: dict[str, dict[str, int]] = {}
    for pair in chosen:
        grades.setdefault(pair.query_id, {})[pair.document_id] = pair.grade
    answered = {name for name, found in grades.items() if max(found.values()) > 0}
    altered = {pair.document_id: pair.document for pair in chosen if pair.source == "titles"}
    found = Questions(
        {pair.query_id: pair.query for pair in chosen if pair.query_id in answered},
        {name: documents for name, documents in grades.items() if name in answered},
        altered,
    )
    return judgements.checked_in(found, published)
