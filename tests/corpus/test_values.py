"""Values of every type at every depth: stored equal, or flagged row by row."""

import datetime
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.corpus.digests import scan_file
from indexer.corpus.documents import Corpus, open_corpus, read_part
from indexer.corpus.rows import texts_of
from indexer.corpus.shards import FileRows, cut_shards
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
    titles = [None, "", "A", None, " \u3000\x85\x1c\v", "\n", "T"]
    texts = [None, None, "", "b", "only this", " ", "\t"]
    columns = {"title": titles, "text": pa.array(texts, pa.string())}
    pq.write_table(pa.table({"id": list("tuvwxyz"), **columns}), tmp_path / "a.parquet")
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path), text_columns=["title", "text"]))
    digest = scan_file(corpus, corpus.files[0]).sort_by("row")
    assert digest["reason"].to_pylist() == ["null_text", "empty_text", None, None, None, "empty_text", None]
    assert [text for _, text in read_all(corpus, list(cut_shards(chosen(corpus), 1000, "")))] == [
        "A",
        "b",
        "only this",
        "T",
    ]


def test_blank_is_what_strip_leaves_nothing_of() -> None:
    characters = [chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    texts = pa.array(characters)
    joined, _ = texts_of({"a": texts, "b": pa.array(["b"] * len(characters))}, skip_empty=True)
    assert joined.to_pylist() == [f"{text}\nb" if text.strip() else "b" for text in characters]


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
    "small_decimal": (pa.array([[Decimal("-1.50")], []], pa.list_(pa.decimal32(5, 2))), pa.list_(pa.decimal128(5, 2))),
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


DAY = 86_400 * 10**9
INSTANTS = [0, -1000, 1, -1, 2_932_896 * DAY, 2_932_897 * DAY, -719_162 * DAY, -719_163 * DAY, 200_000_000 * DAY]
"""Nanoseconds since 1970; int96 holds them all."""


def int96_file(path: Path, nested: Callable[[pa.Array], pa.Array]) -> None:
    """Arrow writes int96 from 64 bits only: what these cannot hold goes into the file's bytes afterwards."""
    marks = [pa.scalar(10**18 + row * DAY, pa.int64()) for row in range(len(INSTANTS))]
    column = nested(pa.array([mark.as_py() for mark in marks], pa.int64()).cast(pa.timestamp("ns")))
    names = [f"d{row}" for row in range(len(INSTANTS))]
    table = pa.table({"id": names, "text": names, "p": column})
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, **plain)
    content = path.read_bytes()
    for mark, wanted in zip(marks, INSTANTS, strict=True):
        assert content.count(as_int96(mark.as_py())) == 1
        content = content.replace(as_int96(mark.as_py()), as_int96(wanted))
    path.write_bytes(content)


def as_int96(nanoseconds: int) -> bytes:
    days, rest = divmod(nanoseconds, DAY)
    return struct.pack("<qi", rest, days + 2_440_588)


@pytest.mark.parametrize("finer", [False, True])
@pytest.mark.parametrize(
    "nested",
    [
        lambda column: column,
        lambda column: pa.ListArray.from_arrays(pa.array(range(len(column) + 1), pa.int32()), column),
        lambda column: pa.StructArray.from_arrays([pa.array(["a"] * len(column)), column], ["a", "b"]),
    ],
)
def test_int96_that_microseconds_cannot_hold_costs_its_row_only(
    tmp_path: Path, nested: Callable[[pa.Array], pa.Array], *, finer: bool
) -> None:
    if finer:  # the stored type is the first file's, which has nanoseconds
        first = nested(pa.array([0]).cast(pa.timestamp("ns")))
        pq.write_table(pa.table({"id": ["x"], "text": ["x"], "p": first}), tmp_path / "0.parquet")
    int96_file(tmp_path / "1.parquet", nested)
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path), payload=["p"]))
    found = scan_file(corpus, corpus.files[-1]).sort_by("row")["reason"].to_pylist()
    fits = [nanoseconds % 1000 == 0 and -719_162 * DAY <= nanoseconds < 2_932_897 * DAY for nanoseconds in INSTANTS]
    if finer:
        fits = [good and abs(nanoseconds) < 2**63 for good, nanoseconds in zip(fits, INSTANTS, strict=True)]
    assert found == [None if good else "bad_value" for good in fits]
    shards = list(cut_shards(chosen(corpus), 1 << 20, ""))
    stored = [leaf for shard in shards for part in shard.parts[finer:] for leaf in instants(corpus, part)]
    assert stored == [nanoseconds for good, nanoseconds in zip(fits, INSTANTS, strict=True) if good]


def instants(corpus: Corpus, part: FileRows) -> list[int]:
    (documents,) = read_part(corpus, part)
    column = documents.payload["p"].combine_chunks()
    while pa.types.is_nested(column.type):
        column = column.flatten()[-1] if pa.types.is_struct(column.type) else column.flatten()
    unit = {"us": 1000, "ns": 1}[column.type.unit]
    return [value * unit for value in column.cast(pa.int64()).to_pylist()]


def test_values_that_python_lacks_are_hashed_apart(tmp_path: Path) -> None:
    nanoseconds = pa.array([[1], [2], [1]], pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("ns", "Mars/Phobos")))
    corpus = open_corpus(given_file(tmp_path, nanoseconds))
    first, second, third = scan_file(corpus, corpus.files[0]).sort_by("row")["payload_hash"].to_pylist()
    assert first == third != second
