"""Values of every type at every depth: stored equal, or flagged row by row."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.corpus.digests import scan_file
from indexer.corpus.documents import open_corpus, read_part
from indexer.corpus.shards import cut_shards
from indexer.corpus.types import common_type, normal_type
from indexer.corpus.values import to_stored
from indexer.errors import WrongColumns
from indexer.settings import CorpusSettings
from tests.corpus.test_documents import chosen, read_all

LATIN = pa.array([b"Anna", b"Jos\xe9", b"Zo\xc3\xab"]).view(pa.string())
OFFSETS = pa.array([0, 1, 2, 3], pa.int32())
FAR = pa.array([0, 5_000_000, 1], pa.int32()).cast(pa.date32())


def given_file(root: Path, payload: pa.Array, **columns: Any) -> CorpusSettings:
    count = len(payload)
    ids = [f"d{row}" for row in range(count)]
    pq.write_table(pa.table({"id": ids, "text": ids, "p": payload} | columns), root / "a.parquet")
    return CorpusSettings(uri=str(root), payload=["p"])


def reasons(settings: CorpusSettings) -> list[str | None]:
    corpus = open_corpus(settings)
    digest = scan_file(corpus, corpus.files[0]).sort_by("row")
    assert digest["id"].to_pylist() == [f"d{row}" for row in range(digest.num_rows)], "a bad value keeps its id"
    return digest["reason"].to_pylist()


@pytest.mark.parametrize(
    "payload",
    [
        pa.ListArray.from_arrays(OFFSETS, LATIN),
        pa.ListArray.from_arrays(OFFSETS, pa.StructArray.from_arrays([LATIN], ["name"])),
        pa.StructArray.from_arrays([pa.ListArray.from_arrays(OFFSETS, LATIN)], ["names"]),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), LATIN),
        pa.ListArray.from_arrays(OFFSETS, pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), LATIN)),
    ],
)
def test_an_invalid_byte_at_any_depth_costs_its_row_only(tmp_path: Path, payload: pa.Array) -> None:
    assert reasons(given_file(tmp_path, payload)) == [None, "invalid_utf8", None]


@pytest.mark.parametrize(
    "payload",
    [
        FAR,
        pa.ListArray.from_arrays(OFFSETS, FAR),
        pa.StructArray.from_arrays([FAR], ["when"]),
        pa.array([0, 2**62, 1]).cast(pa.timestamp("us")),
        pa.array([0, 2**62, 1]).cast(pa.timestamp("ms", "Europe/Berlin")),
        pa.array([0, 2**62, 1]).cast(pa.duration("s")),
    ],
)
def test_a_date_that_cannot_be_shown_costs_its_row_only(tmp_path: Path, payload: pa.Array) -> None:
    assert reasons(given_file(tmp_path, payload)) == [None, "bad_value", None]


def test_a_row_without_any_text_costs_its_row_only(tmp_path: Path) -> None:
    texts = {"title": [None, "", "A", None], "text": pa.array([None, None, "", "b"], pa.string())}
    pq.write_table(pa.table({"id": list("wxyz"), **texts}), tmp_path / "a.parquet")
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path), text_columns=["title", "text"]))
    digest = scan_file(corpus, corpus.files[0]).sort_by("row")
    assert digest["reason"].to_pylist() == ["null_text", "empty_text", None, None]
    assert read_all(corpus, list(cut_shards(chosen(corpus), 1000, "")))[0] == ("y", "A")


STORED = {
    "string_view": (pa.array(["u", None], pa.string_view()), pa.string()),
    "binary_view": (pa.array([b"\xff", None], pa.binary_view()), pa.binary()),
    "large": (pa.array([["a"], None], pa.large_list(pa.large_string())), pa.list_(pa.string())),
    "list_view": (pa.array([["a", "b"], None], pa.list_view(pa.string_view())), pa.list_(pa.string())),
    "dictionary": (pa.array([["a"], []], pa.list_(pa.dictionary(pa.int8(), pa.string()))), pa.list_(pa.string())),
    "not_null": (
        pa.array([{"a": 1}, {"a": 2}], pa.struct([pa.field("a", pa.int32(), nullable=False)])),
        pa.struct([("a", pa.int32())]),
    ),
    "fixed_size": (pa.array([[1, 2], None], pa.list_(pa.int16(), 2)), pa.list_(pa.int16(), 2)),
    "decimal": (pa.array([Decimal("1.50"), None]), pa.decimal128(3, 2)),
}


@pytest.mark.parametrize("name", STORED)
def test_types_have_one_normal_form(tmp_path: Path, name: str) -> None:
    payload, stored = STORED[name]
    settings = given_file(tmp_path, payload)
    assert reasons(settings) == [None, None]
    corpus = open_corpus(settings)
    (shard,) = cut_shards(chosen(corpus), 10_000, "")
    (documents,) = read_part(corpus, shard.parts[0])
    assert documents.payload.schema.field("p").type == stored
    documents.payload.validate(full=True)
    assert documents.payload["p"].to_pylist() == payload.to_pylist()


def test_a_sliced_column_is_stored_like_a_whole_one() -> None:
    for payload, stored in STORED.values():
        values, faults = to_stored(pa.concat_arrays([payload, payload]).slice(1, 2), stored)
        values.validate(full=True)
        assert values.to_pylist() == [*payload.to_pylist()[1:], payload.to_pylist()[0]]
        assert not faults.any()


def test_a_column_without_values_contradicts_nothing(tmp_path: Path) -> None:
    nothing = {"a": pa.nulls(1), "b": pa.array([[None]], pa.list_(pa.null()))}
    something = {"a": ["Ann"], "b": [["x"]]}
    for name, columns in (("0", nothing), ("1", something), ("2", nothing)):
        pq.write_table(pa.table({"id": [name], "text": ["t"], **columns}), tmp_path / f"{name}.parquet")
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path), payload=["a", "b"]))
    assert corpus.payload.types == [pa.string(), pa.list_(pa.string())]
    (shard,) = cut_shards(chosen(corpus), 10_000, "")
    rows = [row for part in shard.parts for found in read_part(corpus, part) for row in found.payload.to_pylist()]
    assert rows == [{"a": None, "b": [None]}, {"a": "Ann", "b": ["x"]}, {"a": None, "b": [None]}]


def test_types_that_contradict_are_refused(tmp_path: Path) -> None:
    for ours, theirs in ((pa.int64(), pa.string()), (pa.list_(pa.int64()), pa.list_(pa.string()))):
        assert common_type(ours, theirs) is None
    swapped = pa.struct([("b", pa.int64()), ("a", pa.large_string())])
    assert common_type(normal_type(swapped), pa.struct([("a", pa.string()), ("b", pa.int64())])) is not None
    assert common_type(pa.timestamp("ns"), pa.timestamp("us")) == pa.timestamp("ns")
    assert common_type(pa.timestamp("us"), pa.timestamp("us", "UTC")) is None
    settings = given_file(tmp_path, pa.array([1]))
    pq.write_table(pa.table({"id": ["x"], "text": ["y"], "p": ["z"]}), tmp_path / "b.parquet")
    corpus = open_corpus(settings)
    with pytest.raises(WrongColumns, match=r"'p' is string, elsewhere int64"):
        scan_file(corpus, corpus.files[1])


def test_int96_holds_every_year(tmp_path: Path) -> None:
    years = [datetime.datetime(year, 1, 2, 3, 4, 5) for year in (1, 1600, 2026, 9999)]
    table = pa.table({"id": list("abcd"), "text": list("abcd"), "p": pa.array(years, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path), payload=["p"]))
    (shard,) = cut_shards(chosen(corpus), 10_000, "")
    (documents,) = read_part(corpus, shard.parts[0])
    assert documents.payload["p"].to_pylist() == years


def test_values_that_python_lacks_are_hashed_apart(tmp_path: Path) -> None:
    nanoseconds = pa.array([[1], [2], [1]], pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("ns", "Mars/Phobos")))
    corpus = open_corpus(given_file(tmp_path, nanoseconds))
    first, second, third = scan_file(corpus, corpus.files[0]).sort_by("row")["payload_hash"].to_pylist()
    assert first == third != second
