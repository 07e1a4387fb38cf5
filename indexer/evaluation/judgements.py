"""Queries and which documents answer them: read from files, in the layout of BEIR and MTEB, and checked.

Contradictions are errors, and what is left out is counted by name. A measure over queries that were dropped silently,
or over documents that no index can find, would mislead.
"""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

import polars as pl

from indexer import schema
from indexer.errors import CorpusError
from indexer.evaluation.judged_files import read_columns
from indexer.evaluation_settings import JudgedQueriesSettings, JudgementsSettings
from indexer.search.published import Published

ID, TEXT = "query_id", "text"

QUERY, DOCUMENT, GRADE = "query_id", "id", "grade"

MOST_GRADE = 2**31 - 1
"""trec_eval counts in 32 bits."""


@dataclass(frozen=True)
class Questions:
    """Queries and what answers them.

    Attributes:
        texts: Every query by its id.
        judgements: Grades of documents by query id, then document id; above 0 a document answers.
        altered: Texts that documents have in the evaluation instead of their own, by document id.
        notes: Counts of what was left out or is unusual, by name.
        themselves: Queries that are documents of the index: the document with the query's id is no result.
    """

    texts: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]
    altered: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    themselves: Set[str] = frozenset()

    def named_documents(self) -> list[str]:
        """Ids of all documents with a grade and ids that queries share with documents, sorted."""
        return sorted({*self.texts, *(name for grades in self.judgements.values() for name in grades)})


def read(queries: JudgedQueriesSettings, judgements: JudgementsSettings) -> Questions:
    """Reads queries and judgements.

    Args:
        queries: Where the queries are.
        judgements: Where the judgements are.

    Returns:
        The queries that have a document that answers; what was left out is counted.

    Raises:
        CorpusError: A file cannot be read, lacks a column, contradicts itself (a query with two texts, a pair with two
            grades, a grade that is no whole number), or no query is left.
    """
    notes: Counter[str] = Counter()
    texts = _texts(read_columns(queries.uri, "queries.uri", {queries.id_column: ID, queries.text_column: TEXT}), notes)
    columns = {
        judgements.query_column: QUERY,
        judgements.document_column: DOCUMENT,
        judgements.score_column: GRADE,
    }
    judged = _judged(read_columns(judgements.uri, "judgements.uri", columns), notes)
    answered = {query for query, grades in judged.items() if max(grades.values()) > 0}
    notes["judged queries without a text"] = len(judged.keys() - texts.keys())
    notes["queries without judgements"] = len(texts.keys() - judged.keys())
    notes["queries that no document answers"] = len(texts.keys() & judged.keys() - answered)
    kept = [query for query in texts if query in answered]
    if not kept:
        raise CorpusError(
            f"no query can be evaluated: {len(texts)} queries with a text, {len(judged)} with judgements, "
            f"{len(answered)} with a document that answers, none with all three"
        )
    return Questions(
        {query: texts[query] for query in kept},
        {query: judged[query] for query in kept},
        notes={name: count for name, count in notes.items() if count},
    )


def checked_in(questions: Questions, published: Published) -> Questions:
    """:func:`checked` with the documents that an index has."""
    found = published.rows(questions.named_documents(), [schema.ID])
    return checked(questions, set(found[schema.ID].to_pylist()))


def checked(questions: Questions, known: Set[str]) -> Questions:
    """Counts judged documents that the index lacks.

    Args:
        questions: Queries with judgements.
        known: Those of :meth:`Questions.named_documents` that the index has.

    Returns:
        The same, with notes and with the queries that are documents themselves. A document that is missing still counts
        as one that was not found.

    Raises:
        CorpusError: The index has no document that answers any query.
    """
    answers = {name for grades in questions.judgements.values() for name, grade in grades.items() if grade > 0}
    judged = {name for grades in questions.judgements.values() for name in grades}
    if not answers & known:
        raise CorpusError(
            f"judgements.uri: none of the {len(answers)} documents that answer a query is in the index; are these "
            "judgements of another corpus?"
        )
    lost = sum(
        not any(grade > 0 and name in known for name, grade in grades.items())
        for grades in questions.judgements.values()
    )
    # As BEIR and mteb do (ArguAna, Quora), unless the judgements say that the document answers itself.
    themselves = frozenset(
        query for query, grades in questions.judgements.items() if query in known and grades.get(query, 0) <= 0
    )
    found = {
        "judged documents that the index does not have": len(judged - known),
        "queries whose answers are all missing": lost,
        "queries that are documents themselves, which are left out of their results": len(themselves),
    }
    notes = {**questions.notes, **{name: count for name, count in found.items() if count}}
    return replace(questions, notes=notes, themselves=themselves)


def _texts(frame: pl.DataFrame, notes: Counter[str]) -> dict[str, str]:
    """Texts by query id; counts what is left out."""
    usable = frame.filter(pl.all_horizontal(pl.all().is_not_null()), pl.col(TEXT).str.strip_chars() != "")
    notes["queries without an id or a text"] = frame.height - usable.height
    once = usable.unique(maintain_order=True)
    notes["queries given twice"] = usable.height - once.height
    doubled = once.filter(pl.col(ID).is_duplicated())
    if doubled.height:
        raise CorpusError(
            f"queries.uri: {doubled[ID].n_unique()} query ids have several texts, the first one {doubled[ID][0]!r}"
        )
    return dict(zip(once[ID].to_list(), once[TEXT].to_list(), strict=True))


def _judged(frame: pl.DataFrame, notes: Counter[str]) -> dict[str, dict[str, int]]:
    """Grades by query and document; counts what is left out."""
    usable = frame.drop_nulls()
    notes["judgements without an id or a grade"] = frame.height - usable.height
    grades = usable.with_columns(pl.col(GRADE).cast(pl.Float64, strict=False))
    is_whole = (pl.col(GRADE).abs() <= MOST_GRADE) & (pl.col(GRADE) == pl.col(GRADE).round())
    odd = grades.filter(~is_whole.fill_null(value=False))
    if odd.height:
        raise CorpusError(
            f"judgements.uri: {odd.height} grades are no whole numbers up to {MOST_GRADE:,}, the first one of query "
            f"{odd[QUERY][0]!r}"
        )
    once = grades.unique(maintain_order=True)
    notes["judgements given twice"] = grades.height - once.height
    doubled = once.filter(pl.struct(QUERY, DOCUMENT).is_duplicated())
    if doubled.height:
        raise CorpusError(
            f"judgements.uri: {doubled.select(QUERY, DOCUMENT).n_unique()} pairs have several grades, the first one "
            f"query {doubled[QUERY][0]!r} with document {doubled[DOCUMENT][0]!r}"
        )
    found: dict[str, dict[str, int]] = {}
    for query, document, grade in once.select(QUERY, DOCUMENT, GRADE).iter_rows():
        found.setdefault(query, {})[document] = int(grade)
    return found
