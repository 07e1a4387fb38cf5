"""The TREC run file: six columns, and different names stay different."""

import pyarrow as pa

from indexer.reranking import results

NAMES = ["a b", "a%20b", "a\tb", "a\u00a0b", "a\x1fb", "a\x85b", "", "%", "%25", "a\nb", "é", "\ufeffa", "\x00"]


def test_a_trec_run_has_six_columns_whatever_the_names_are() -> None:
    rows = [
        {"query_id": query, "id": name, "chunk": 0, "rank": 1, "score": 0.5, "vector_score": 0.5, "truncated": False}
        for query in NAMES
        for name in NAMES
    ]
    part = pa.Table.from_pylist(rows, results.RESULT_SCHEMA)
    lines = results.trec_lines(part, "my model")
    words = [line.split() for line in "".join(lines).splitlines()]
    assert len(words) == len(rows)
    assert {len(line) for line in words} == {6}
    assert {line[1] for line in words} == {"Q0"}
    assert {line[5] for line in words} == {"my%20model"}
    assert len({(line[0], line[2]) for line in words}) == len(rows)
    assert ("é", "a%20b") in {(line[0], line[2]) for line in words}
