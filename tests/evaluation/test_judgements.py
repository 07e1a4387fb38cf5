"""Queries and judgements in their layouts, and everything that may be wrong with them."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from indexer.errors import CorpusError
from indexer.evaluation import judgements, known_items
from indexer.evaluation.judged_files import read_columns
from indexer.evaluation.judgements import Questions
from indexer.evaluation.known_items import first_sentence
from indexer.evaluation_settings import JudgedQueriesSettings, JudgementsSettings

QUERIES = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"}, {"_id": "q3", "text": "third"}]

JUDGED = [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d3", 2)]


def read(root: Path, queries: list[dict[str, Any]] = QUERIES, judged: list[tuple[Any, ...]] = JUDGED) -> Questions:
    lines = map(json.dumps, queries)
    (root / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judged)]
    (root / "qrels.tsv").write_text("\n".join(rows), encoding="utf-8")
    return judgements.read(
        JudgedQueriesSettings(uri=str(root / "queries.jsonl")), JudgementsSettings(uri=str(root / "qrels.tsv"))
    )


def test_the_layout_of_beir_is_read(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.texts == {"q1": "first", "q2": "second"}
    assert found.judgements == {"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 2}}
    assert found.notes == {"queries without judgements": 1}


def test_parquet_with_named_columns_is_read(tmp_path: Path) -> None:
    questions = ["first", 'with "quotes"\tand tabs']
    pl.DataFrame({"number": [1, 2], "question": questions}).write_parquet(tmp_path / "q.parquet")
    columns = {"query_column": "q", "document_column": "d", "score_column": "grade"}
    pl.DataFrame({"q": [1, 2], "d": ["a", "b"], "grade": [1.0, 3.0]}).write_parquet(tmp_path / "j.parquet")
    found = judgements.read(
        JudgedQueriesSettings(uri=str(tmp_path / "q.parquet"), id_column="number", text_column="question"),
        JudgementsSettings(uri=str(tmp_path / "j.parquet"), **columns),
    )
    assert found.texts == {"1": "first", "2": 'with "quotes"\tand tabs'}
    assert found.judgements == {"1": {"a": 1}, "2": {"b": 3}}


def test_what_is_odd_is_counted(tmp_path: Path) -> None:
    odd = [{"_id": "q4", "text": " "}, {"_id": None, "text": "x"}, {"_id": "q5", "text": "none"}]
    queries = [*QUERIES, QUERIES[0], *odd]
    judged = [*JUDGED, JUDGED[0], ("q9", "d1", 1), ("q5", "d1", 0)]
    found = read(tmp_path, queries, judged)
    assert list(found.texts) == ["q1", "q2"]
    assert found.notes == {
        "queries without an id or a text": 2,
        "queries given twice": 1,
        "judgements given twice": 1,
        "judged queries without a text": 1,
        "queries without judgements": 1,
        "queries that no document answers": 1,
    }


@pytest.mark.parametrize(
    ("queries", "judged", "message"),
    [
        ([*QUERIES, {"_id": "q1", "text": "other"}], JUDGED, r"1 query ids have several texts, the first one 'q1'"),
        (QUERIES, [*JUDGED, ("q1", "d1", 2)], r"1 pairs have several grades, .*query 'q1' with document 'd1'"),
        (QUERIES, [("q1", "d1", "0.5"), ("q2", "d1", "x")], r"2 grades are no whole numbers up to .* query 'q1'"),
        (QUERIES, [("q1", "d1", "inf"), ("q2", "d1", "NaN"), ("q3", "d1", "1.0")], r"2 grades are no whole numbers"),
        (QUERIES, [("q1", "d1", 1e20)], r"1 grades are no whole numbers up to"),
        (QUERIES, [("other", "d1", 1)], r"3 queries with a text, 1 with judgements, 1 with .* none with all three"),
        (QUERIES, [("q1", "d1", 0)], r"no query can be evaluated"),
        ([{"_id": "q1", "question": "first"}], JUDGED, r"queries\.uri: .*queries\.jsonl lacks a column.*text"),
    ],
)
def test_contradictions_are_errors(
    tmp_path: Path, queries: list[dict[str, Any]], judged: list[tuple[Any, ...]], message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, queries, judged)


def test_files_that_cannot_be_read_are_named_without_their_text(tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    given = JudgementsSettings(uri=str(tmp_path / "qrels.tsv"))
    with pytest.raises(CorpusError, match=r"queries\.uri: .*missing\.jsonl cannot be read"):
        judgements.read(JudgedQueriesSettings(uri=str(tmp_path / "missing.jsonl")), given)
    (tmp_path / "broken.jsonl").write_text('{"_id": "q1", "text": "canary')
    with pytest.raises(CorpusError, match=r"broken\.jsonl cannot be read") as refused:
        judgements.read(JudgedQueriesSettings(uri=str(tmp_path / "broken.jsonl")), given)
    assert "canary" not in str(refused.value)
    (tmp_path / "headless.tsv").write_text("q1\tcanary of a query\n")
    with pytest.raises(CorpusError, match=r"headless\.tsv lacks a column of _id, text") as refused:
        judgements.read(JudgedQueriesSettings(uri=str(tmp_path / "headless.tsv")), given)
    assert "canary" not in str(refused.value)


def test_documents_that_the_index_lacks_are_counted_and_all_of_them_is_an_error(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.named_documents() == ["d1", "d2", "d3", "q1", "q2"]
    checked = judgements.checked(found, {"d1"})
    assert checked.judgements == found.judgements, "what is missing still counts as not found"
    assert checked.notes == {
        "queries without judgements": 1,
        "judged documents that the index does not have": 2,
        "queries whose answers are all missing": 1,
    }
    with pytest.raises(CorpusError, match="none of the 2 documents that answer a query is in the index"):
        judgements.checked(found, {"d2"})


def test_queries_that_are_documents_are_counted_unless_they_answer_themselves(tmp_path: Path) -> None:
    found = judgements.checked(read(tmp_path, judged=[*JUDGED, ("q2", "q2", 1)]), {"d1", "d3", "q1", "q2"})
    assert found.themselves == {"q1"}
    assert found.notes["queries that are documents themselves, which are left out of their results"] == 1


LINES = b"""{"id": "q1", "question": "first, with \\"quotes\\""}\n{"id": "q2", "question": "two\\nlines"}"""

COMMA = 'id,question\r\nq1,"first, with ""quotes"""\r\nq2,"two\nlines"\r\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", b"\xef\xbb\xbf" + LINES),
        ("q.jsonl.gz", gzip.compress(LINES.replace(b"{", b'{"other": [{}], ') + b"\n\n", mtime=0)),
        ("q.csv", COMMA.encode()),
        ("q.csv", COMMA.encode("utf-8-sig")),
        ("q.csv.gz", gzip.compress(COMMA.encode(), mtime=0)),
        ("q.tsv", b'\xef\xbb\xbfid\tquestion\r\nq1\tfirst, with "quotes"\r\n\r\nq2\ttwo\xe2\x80\xa8lines\r\n'),
    ],
)  # fmt: skip
def test_every_accepted_layout_gives_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = read_columns(str(tmp_path / name), "queries.uri", {"id": "query_id", "question": "text"})
    rows = [(name, text.replace("\u2028", "\n")) for name, text in found.iter_rows()]
    assert rows == [("q1", 'first, with "quotes"'), ("q2", "two\nlines")]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("q.csv", "id,question\nq1,canary\nq2,caf\u00e9\n".encode("latin-1"), "line 3 is not UTF-8"),
        ("q.tsv", "id\tquestion\nq1\tcanary\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("q.jsonl", b'{"id": "q1", "question": "x"}\n{"id": "q2", canary}\n', "line 2 is not JSON"),
        ("q.jsonl", b'{"id": "q1", "question": "x"}\n["canary"]\n', "line 2 is JSON but no object"),
        ("q.jsonl", b'{"id": ["canary"], "question": "x"}\n', "line 1: id is neither text nor a number"),
        ("q.jsonl", b'{"id": "1", "question": "\\ud800 canary"}\n', "line 1: question holds half of a surrogate pair"),
        ("q.jsonl.gz", b'{"id": "q1", "question": "canary"}\n', "is not gzip"),
        ("q.csv", b'id,question\nq1,"canary\n', "line 2 is not CSV"),
        ("q.tsv", b"id\tquestion\nq1\tcanary\tmore\n", "line 2 has 3 fields, the first line names 2"),
        ("q.tsv", b"q1\tcanary\nq2\tother\n", "lacks a column of id, question"),
        ("q.txt", b"q1 canary\n", "is not Parquet"),
    ],
)  # fmt: skip
def test_what_is_not_accepted_is_told_with_its_line(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=what) as refused:
        read_columns(str(tmp_path / name), "queries.uri", {"id": "query_id", "question": "text"})
    assert "accepted are Parquet" in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("function json.dumps(obj)\n\nTurns obj into a JSON str. Then more.", "Turns obj into a JSON str."),
        ("Short. Too short! But this one is long enough? Yes.", "But this one is long enough?"),
        ("This sentence goes\nover two lines. Next.", "This sentence goes\nover two lines."),
        ("Version 1.2.3 of os.path is what it says.", "Version 1.2.3 of os.path is what it says."),
        ("no end in this paragraph at all\n\nnor here", None),
        ("", None),
    ],
)
def test_the_first_sentence(text: str, sentence: str | None) -> None:
    assert first_sentence(text) == sentence


@pytest.mark.parametrize(
    ("text", "query", "rest"),
    [
        ("re: return what regular expressions prefer, re!", "re", ": return what regular expressions prefer, !"),
        ("Über uns. Überall ist es schön.", "Über", "uns. Überall ist es schön."),
        ("我们讨论量子计算机的原理", "量子计算机", "我们讨论的原理"),
        ("关于AI的研究，AIX不算", "AI", "关于的研究，AIX不算"),
        ("A title.\nAnd its text.", "A  title.", "A title.\nAnd its text."),
        ("text", "", "text"),
    ],
)
def test_a_query_is_taken_out_of_its_document_but_not_out_of_words(text: str, query: str, rest: str) -> None:
    assert known_items._without(text, query) == (" ".join(query.split()), rest)
