"""Queries and which documents answer them: read from files, in the layout of BEIR and MTEB, and checked.

Whatever is odd about them is either an error or counted by name: a measure over queries that silently fell away, or
over documents that no index can find, would be a number about something else.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import polars as pl

from indexer.corpus.files import read_small_file
from indexer.corpus.listing import list_files
from indexer.errors import CorpusError
from indexer.settings import JudgedQueriesSettings, JudgementsSettings

ID, TEXT = "query_id", "text"

QUERY, DOCUMENT, GRADE = "query_id", "id", "grade"


@dataclass(frozen=True)
class Questions:
    """Queries and what answers them.

    Attributes:
        texts: Every query by its id.
        judgements: Grades of documents by query id, then document id; above 0 a document answers.
        altered: Texts that documents have in the evaluation instead of their own, by document id.
        notes: How many of what was left out or is odd, by name.
    """

    texts: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]
    altered: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)


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
    texts = _texts(_frame(queries.uri, "queries.uri", {queries.id_column: ID, queries.text_column: TEXT}), notes)
    columns = {
        judgements.query_column: QUERY,
        judgements.document_column: DOCUMENT,
        judgements.score_column: GRADE,
    }
    judged = _judged(_frame(judgements.uri, "judgements.uri", columns), notes)
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


def checked(questions: Questions, known: Set[str]) -> Questions:
    """Counts what no search of an index can find.

    Args:
        questions: Queries with judgements.
        known: Those of the judged documents that the index has.

    Returns:
        The same, with notes. A document that is missing still counts as one that was not found.

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
    found = {
        "judged documents that the index does not have": len(judged - known),
        "queries whose answers are all missing": lost,
    }
    return Questions(
        questions.texts,
        questions.judgements,
        questions.altered,
        {**questions.notes, **{name: count for name, count in found.items() if count}},
    )


def judged_documents(questions: Questions) -> list[str]:
    """Ids of all documents with a grade, sorted."""
    return sorted({name for grades in questions.judgements.values() for name in grades})


def _texts(frame: pl.DataFrame, notes: Counter[str]) -> dict[str, str]:
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
    usable = frame.drop_nulls()
    notes["judgements without an id or a grade"] = frame.height - usable.height
    grades = usable.with_columns(pl.col(GRADE).cast(pl.Float64, strict=False))
    odd = grades.filter(pl.col(GRADE).is_null() | (pl.col(GRADE) != pl.col(GRADE).round()))
    if odd.height:
        raise CorpusError(
            f"judgements.uri: {odd.height} grades are no whole numbers, the first one of query {odd[QUERY][0]!r}"
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


def _frame(uri: str, setting: str, columns: Mapping[str, str]) -> pl.DataFrame:
    """Columns of a file as text, under our names."""
    try:
        frame = _parsed(uri, setting, list(columns))
        return frame.select(pl.col(theirs).cast(pl.String).alias(ours) for theirs, ours in columns.items())
    except pl.exceptions.ColumnNotFoundError:
        # Polars lists what there is: of a file without a header, its first row.
        raise CorpusError(f"{setting}: {uri} lacks a column of {', '.join(columns)}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        # The message may quote what is in the file.
        raise CorpusError(f"{setting}: {uri} cannot be read ({type(error).__name__})") from None


def _parsed(uri: str, setting: str, columns: Sequence[str]) -> pl.DataFrame:
    if uri.endswith(".jsonl"):
        return pl.read_ndjson(io.BytesIO(read_small_file(uri, setting)), infer_schema_length=None)
    if uri.endswith(".tsv"):
        return pl.read_csv(
            io.BytesIO(read_small_file(uri, setting)), separator="\t", quote_char=None, infer_schema=False
        )
    files = [read_small_file(uri, setting, file) for file in list_files(uri, setting)]
    return pl.concat([pl.read_parquet(io.BytesIO(file), columns=list(columns)) for file in files])
