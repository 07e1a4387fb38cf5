"""Ids that stand in several rows: an epoch lists them, and nights search only these in unchanged files."""

import random
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pytest

from indexer.indexing import diff, increment
from indexer.indexing.increment import ContradictionError
from tests.indexing.test_increment import State, chosen, incremental, known, whole
from tests.support.edited_corpus import IDS, Corpus


def epoch(corpus: Corpus, copied: pa.Table) -> State:
    """The epoch of a corpus of documents with text A and payload p, which lists these copies."""
    rows = [row for table in map(corpus.table, corpus.files) for row in table.to_pylist()]
    held = {row["id"]: (row["content_hash"], row["payload_hash"]) for row in rows}
    return State(dict(corpus.digests), held, [], len(rows), len(rows) - len(held), copied=copied)


def test_one_copy_leaves_other_ids_alone() -> None:
    """A changed file has ids of which no unchanged one has a row; only the copied id is searched there."""
    corpus = Corpus(random.Random(0))
    corpus.put("a", [(name, "A", "p", None) for name in IDS])
    corpus.put("b", [(IDS[0], "A", "p", None)])
    copied = whole(State({}, {}, [], 0, 0), corpus).copied
    assert copied is not None
    assert copied.to_pylist() == [{"id": IDS[0], "further": 1}]
    state, before = epoch(corpus, copied), corpus.table("a")
    corpus.put("a", [(name, "B", "p", None) for name in IDS])
    files = chosen(state, corpus, 1, 30)
    assert files is not None
    given = known(state, corpus, files, None, None)
    asked: list[str] = []

    def elsewhere(ids: pl.Series) -> pl.DataFrame:
        asked.extend(ids)
        return given.elsewhere(ids)

    found = increment.compare({0: corpus.table("a")}, [before], replace(given, elsewhere=elsewhere), None, None)
    assert asked == [IDS[0]]
    assert (found.counts["changed"], found.counts["deleted"]) == (len(IDS) - 1, 1)
    assert found.copied is not None
    assert not found.copied.num_rows


def test_copies_that_do_not_add_up_are_a_contradiction() -> None:
    corpus = Corpus(random.Random(0))
    for name in "ab":
        corpus.put(name, [(IDS[0], "A", "p", None)])
    state = epoch(corpus, diff.COPIED_SCHEMA.empty_table())
    corpus.drop("a")
    files = chosen(state, corpus, 1, 30)
    assert files is not None
    # By a list without the id, no other file has it.
    with pytest.raises(ContradictionError, match="copies"):
        incremental(state, corpus, files, [])
