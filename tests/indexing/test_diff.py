"""Comparing digests with what is published."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from indexer.indexing import diff
from indexer.indexing.diff import RangeDiff, compare, marked, marked_rows
from indexer.reasons import QuarantineReason
from indexer.schema import CONTENT_HASH_TYPE, DIGEST_SCHEMA, PAYLOAD_HASH_TYPE

Row = tuple[str | None, str, str, str | None]


def content(text: str) -> bytes:
    return text.encode().ljust(16, b"-")


def digest(rows: Sequence[Row]) -> pa.Table:
    """Digest of (id, text, payload, reason) rows."""
    columns = [
        {
            "row": at,
            "id": name,
            "content_hash": content(text),
            "payload_hash": payload.encode().ljust(8),
            "text_bytes": len(text),
            "reason": reason,
        }
        for at, (name, text, payload, reason) in enumerate(rows)
    ]
    return pa.Table.from_pylist(columns, DIGEST_SCHEMA).sort_by("id")


def published(rows: Sequence[tuple[str, str, str]]) -> pa.Table:
    ids, texts, payloads = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "content_hash": pa.array(map(content, texts), CONTENT_HASH_TYPE),
            "payload_hash": pa.array((payload.encode().ljust(8) for payload in payloads), PAYLOAD_HASH_TYPE),
        }
    )


def quarantined(rows: Sequence[tuple[str | None, str, str]]) -> pa.Table:
    ids, reasons, texts = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "reason": pa.array(reasons, pa.string()),
            "content_hash": pa.array(map(content, texts), CONTENT_HASH_TYPE),
        }
    )


def rows_to_embed(found: RangeDiff) -> dict[int, list[int]]:
    return {file: sorted(rows.tolist()) for file, rows in found.rows.items()}


def test_new_changed_deleted_and_unchanged() -> None:
    files = [digest([("same", "A", "", None), ("new", "B", "", None)]), digest([("text", "C2", "", None)])]
    before = published([("same", "A", ""), ("text", "C", ""), ("gone", "D", "")])
    found = compare(files, before, quarantined([]), None, None)
    assert rows_to_embed(found) == {0: [1], 1: [0]}
    assert sorted(found.dropped.to_pylist()) == ["gone", "text"]
    assert {name: found.counts[name] for name in ("new", "changed", "unchanged", "deleted")} == dict.fromkeys(
        ("new", "changed", "unchanged", "deleted"), 1
    )
    assert found.counts["text_bytes"] == 3


def test_a_changed_payload_needs_new_rows_and_no_vectors() -> None:
    before = published([("a", "A", "old"), ("b", "B", "")])
    files = [digest([("a", "A", "new", None), ("b", "B", "", None)])]
    found = compare(files, before, quarantined([]), None, None)
    assert not found.rows
    assert found.payload_rows[0].tolist() == [0]
    assert found.dropped.to_pylist() == ["a"]
    assert (found.counts["payload_changed"], found.counts["changed"], found.arrivals.size) == (1, 0, 0)
    every = compare(files, before, quarantined([]), None, None, payload_differs=True)
    assert sorted(every.payload_rows[0].tolist()) == [0, 1]


def test_copies_with_one_text_count_once_whatever_their_order() -> None:
    rows: list[Row] = [("a", "A", "2", None), ("a", "A", "1", None)]
    for order, kept in ((rows, 1), (rows[::-1], 0)):
        found = compare([digest(order)], published([]), quarantined([]), None, None)
        assert rows_to_embed(found) == {0: [kept]}
        assert (found.counts["duplicates"], found.quarantine.num_rows) == (1, 0)


def test_copies_with_different_texts_are_all_quarantined_and_unpublished() -> None:
    files = [digest([("a", "A", "", None)]), digest([("a", "B", "", None)])]
    found = compare(files, published([("a", "A", "")]), quarantined([]), None, None)
    assert not found.rows
    assert found.quarantine["reason"].to_pylist() == ["duplicate_id"] * 2
    assert found.quarantine["file"].to_pylist() == [0, 1]
    assert found.dropped.to_pylist() == ["a"]


def test_what_the_model_refused_stays_refused_while_its_text_stays() -> None:
    before = quarantined([("long", "too_long", "L"), ("healed", "too_long", "old"), ("killer", "poison", "P")])
    rows: list[Row] = [("long", "L", "", None), ("healed", "H", "", None), ("killer", "P", "", None)]
    found = compare([digest(rows)], published([]), before, None, None)
    assert rows_to_embed(found) == {0: [1]}
    assert found.quarantine["id"].to_pylist() == ["long", "killer"]
    assert found.quarantine_changed


def test_an_unchanged_quarantine_is_nothing_to_publish() -> None:
    rows: list[Row] = [(None, "", "", "null_id"), ("a", "A", "", "empty_text")]
    before = quarantined([("a", "empty_text", "A"), (None, "null_id", "")])
    found = compare([digest(rows)], published([]), before, None, None)
    assert not found.quarantine_changed
    assert not found.rows


@pytest.mark.parametrize("bounds", [["b"], ["a", "d"], ["", "c", "zz"]])
def test_ranges_add_up_to_the_whole(bounds: list[str]) -> None:
    rows: list[Row] = [(name, name.upper(), "", None) for name in "abcdef"]
    files = [digest(rows[:4]), digest([*rows[3:], (None, "", "", "null_id"), ("b", "X", "", None)])]
    before = published([("a", "A", ""), ("c", "OLD", ""), ("gone", "G", "")])
    whole = compare(files, before, quarantined([]), None, None)
    edges = [None, *bounds, None]
    parts = [compare(files, before, quarantined([]), *pair) for pair in pairwise(edges)]
    assert {name: sum(part.counts[name] for part in parts) for name in whole.counts} == whole.counts
    for file in range(2):
        found = sorted(row for part in parts for row in rows_to_embed(part).get(file, []))
        assert found == rows_to_embed(whole)[file]
    assert sorted(name for part in parts for name in part.dropped.to_pylist()) == sorted(whole.dropped.to_pylist())


def test_every_fate_has_a_sentence() -> None:
    assert all(fate.description for fate in QuarantineReason)
    assert set(QuarantineReason) >= diff.FOUND_BY_WORKERS


def unreadable(ids: list[str] | None) -> diff.Unreadable:
    row = {"file": 0, "row": 0, "reason": "bad_file", "content_hash": content("f"), "payload_hash": b"f".ljust(8)}
    hashes = [("content_hash", CONTENT_HASH_TYPE), ("payload_hash", PAYLOAD_HASH_TYPE)]
    columns = [("id", pa.string()), ("file", pa.int32()), ("row", pa.int64()), ("reason", pa.string()), *hashes]
    schema = pa.schema(columns)
    known = None if ids is None else pa.chunked_array([pa.array(ids, pa.string())])
    return diff.Unreadable(pa.Table.from_pylist([row], schema), known)


def test_documents_of_a_file_that_cannot_be_read_stay() -> None:
    before = published([("mine", "A", ""), ("moved", "B", ""), ("broken", "C", ""), ("gone", "D", "")])
    files = [digest([]), digest([("moved", "B", "", None), ("broken", "C", "", "invalid_utf8")])]
    found = compare(
        files, before, quarantined([]), None, None, unreadable=unreadable(["mine", "moved", "broken", "never"])
    )
    assert sorted(found.dropped.to_pylist()) == ["broken", "gone"]
    assert [found.counts[name] for name in ("kept", "unchanged", "deleted", "documents")] == [1, 1, 2, 3]
    assert sorted(found.quarantine["reason"].to_pylist()) == ["bad_file", "invalid_utf8"]
    unknown = compare(files, before, quarantined([]), None, None, unreadable=unreadable(None))
    assert unknown.dropped.to_pylist() == ["broken"]
    assert unknown.counts["kept"] == 2


def test_rows_are_marked_range_by_range() -> None:
    mask = None
    for rows in ([3, 17], [0], [64], [5, 2]):
        mask = marked(mask, np.array(rows, np.int64))
        assert mask.nbytes <= 9, "a mask holds a bit for each row up to the last one"
    assert mask is not None
    assert marked_rows(mask).tolist() == [0, 2, 3, 5, 17, 64]
