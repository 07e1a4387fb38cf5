"""Pairs: their files, their split, their batches."""

import json
from dataclasses import replace

import pytest

from indexer.adapting import batches, pairs, splitting
from indexer.adapting.pairs import Pair
from indexer.adapting_settings import SplitSettings
from indexer.errors import CorpusError


def made(count: int, source: str = "titles") -> list[Pair]:
    return [Pair(f"q{at}", f"query {at}", f"d{at}", f"document {at}", source) for at in range(count)]


def test_pairs_are_read_as_they_were_written() -> None:
    given = [
        replace(made(1)[0], drawn={"length": "short"}, negatives={"d9": "another"}, rank=2, cosine=0.5, score=0.25),
        Pair("q", "x", "d", "", "judgements", grade=-1, split="test", dropped="why"),
    ]
    assert pairs.from_table(pairs.to_table(given)) == given


def test_rows_are_what_other_trainers_read() -> None:
    given = [replace(made(1)[0], negatives={"a": "one", "b": "two"}), replace(made(2)[1], split="test")]
    (row,) = map(json.loads, pairs.sentence_transformers_lines(given).splitlines())
    assert row == {"anchor": "query 0", "positive": "document 0", "negative_1": "one", "negative_2": "two"}
    (row,) = map(json.loads, pairs.swift_lines(given).splitlines())
    assert row["messages"] == [{"role": "user", "content": "query 0"}]
    assert row["positive_messages"] == [[{"role": "user", "content": "document 0"}]]
    assert [turn[0]["content"] for turn in row["negative_messages"]] == ["one", "two"]


def test_every_row_for_sentence_transformers_has_as_many_negatives() -> None:
    """A null in place of a text ends a training of sentence-transformers."""
    one, two, three, four, *more = made(6)
    given = [
        replace(one, negatives={"a": "one", "b": "two"}),
        replace(two, negatives={"d2": "document 2"}),
        replace(three, query="query 1"),  # another answer of the second query
        replace(four, document="Document  1"),  # the second pair's document, as another text
        *more,
    ]
    rows = [json.loads(line) for line in pairs.sentence_transformers_lines(given).splitlines()]
    assert [sorted(row) for row in rows] == [["anchor", "negative_1", "negative_2", "positive"]] * 6
    assert (rows[0]["negative_1"], rows[0]["negative_2"]) == ("one", "two")
    assert [rows[1]["negative_1"], rows[1]["negative_2"]] == ["document 2", "document 4"]
    assert "document 1" not in {rows[2]["negative_1"].casefold(), rows[2]["negative_2"].casefold()}


def held_apart(found: list[Pair]) -> None:
    """No query and no document of validation or test is in training, by id or by text."""
    kept = [pair for pair in found if pair.split == "train"]
    others = [pair for pair in found if pair.split != "train" and pair.grade > 0]
    assert kept
    assert others
    for seen in ("query_id", "document_id"):
        assert {getattr(pair, seen) for pair in kept}.isdisjoint(getattr(pair, seen) for pair in others)
    for text in ("query", "document"):
        ours = {pairs.key(getattr(pair, text)) for pair in kept}
        assert ours.isdisjoint(pairs.key(getattr(pair, text)) for pair in others)


@pytest.mark.parametrize("seed", range(5))
def test_no_query_and_no_document_is_on_both_sides(seed: int) -> None:
    shared = [Pair(f"r{at}", f"request {at}", f"d{at // 3}", f"document {at // 3}", "judgements") for at in range(60)]
    copies = [Pair(f"c{at}", f"QUERY  {at}", f"e{at}", f"Document {at + 20}", "titles") for at in range(10)]
    found, dropped = splitting.split([*made(40), *shared, *copies], SplitSettings(seed=seed))
    held_apart(found)
    assert {pair.split for pair in found} == {"train", "validation", "test"}
    assert dropped["pairs whose document is one of validation or test"] > 0
    assert len(found) + sum(dropped.values()) == 110


def test_judged_queries_keep_all_their_documents_and_take_them_out_of_training() -> None:
    judged = [Pair("t", "query 3", f"d{at}", f"document {at}", "judgements", split="test") for at in range(4)]
    found, dropped = splitting.split([*made(20), *judged], SplitSettings(validation=0.2))
    held_apart(found)
    assert sum(pair.split == "test" for pair in found) == 4
    assert dropped["pairs whose query is a test query"] == 1


def test_the_split_is_that_of_the_seed() -> None:
    one, two = (splitting.split(made(50), SplitSettings(seed=seed))[0] for seed in (1, 2))
    assert one == splitting.split(made(50), SplitSettings(seed=1))[0]
    assert {pair.query for pair in one if pair.split == "test"} != {pair.query for pair in two if pair.split == "test"}


def test_too_few_pairs_are_named() -> None:
    with pytest.raises(CorpusError, match="1 pairs are left for train, at least 2 needed"):
        splitting.split(made(2), SplitSettings())


def test_a_batch_has_no_document_that_answers_another_query() -> None:
    twins = [Pair(f"t{at}", f"twin {at}", f"d{at}", f"Document  {at}", "titles") for at in range(10)]
    given = [
        replace(pair, negatives={f"d{(at + 1) % 20}": f"document {(at + 1) % 20}"}) for at, pair in enumerate(made(20))
    ]
    chosen = [*given, *twins]
    for rows in batches.make(chosen, 8, 6, seed=0):
        assert len(rows) == 8
        documents = [pairs.key(chosen[row].document) for row in rows]
        negatives = {pairs.key(text) for row in rows for text in chosen[row].negatives.values()}
        assert len(set(documents)) == 8
        assert negatives.isdisjoint(documents)


def test_batches_pass_over_all_pairs_before_any_comes_again() -> None:
    found = batches.make(made(12), 4, 6, seed=3)
    assert sorted(row for rows in found[:3] for row in rows) == list(range(12))
    assert sorted(row for rows in found[3:] for row in rows) == list(range(12))
    assert found[:3] != found[3:]
    assert found == batches.make(made(12), 4, 6, seed=3)


def test_pairs_of_one_document_make_no_batch() -> None:
    with pytest.raises(CorpusError, match="they share documents"):
        batches.make([Pair(f"q{at}", f"query {at}", "d", "document", "titles") for at in range(5)], 4, 2, seed=0)
