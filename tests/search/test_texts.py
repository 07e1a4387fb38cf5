"""Texts read back from the payload are those that were embedded, also where a part of them is empty."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.search.published import open_published
from tests.support.fakes import run_here, settings


def test_empty_parts_add_nothing_to_texts_read_back(tmp_path: Path) -> None:
    rows = [("a", "", "body one"), ("b", "title", ""), ("c", None, "body"), ("d", "title", "body")]
    ids, titles, texts = zip(*rows, strict=True)
    (tmp_path / "corpus").mkdir()
    table = pa.table({"id": ids, "title": titles, "text": texts})
    pq.write_table(table, tmp_path / "corpus" / "a.parquet")
    corpus = {"uri": str(tmp_path / "corpus"), "text_columns": ["title", "text"], "payload": ["title", "text"]}
    given = settings(tmp_path, corpus=corpus)
    run_here(given)
    published = open_published(given.index.uri, "docs")
    expected = ["body one", "title", "body", "title\nbody"]
    assert published.texts(list(ids)) == expected
    assert published.texts(list(ids), [0] * 4) == expected
