"""JSON Lines and CSV are read as Parquet is: the same rows by range, and a bad row costs no other row."""

import csv
import gzip
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies

from indexer.corpus import lines, text_rows
from indexer.corpus.digests import scan_file
from indexer.corpus.documents import Corpus, open_corpus, read_shard
from indexer.corpus.files import DataFile
from indexer.corpus.formats import format_of, open_file
from indexer.corpus.listing import list_files
from indexer.corpus.parsed import to_column
from indexer.corpus.shards import cut_shards
from indexer.corpus.types import without_null_type
from indexer.corpus.values import Fault
from indexer.errors import BadFile, CorpusError, WrongColumns
from indexer.settings import CorpusSettings
from tests.corpus.test_documents import chosen
from tests.support import sources

ROWS = [
    (f"d{row}", f'text {row}, with "quotes",\ttabs,\nnewlines\r\nand umlauts äöü €' * (1 + row % 3), "ab"[row % 2])
    for row in range(1300)
]


def corpus_of(root: Path, **settings: Any) -> Corpus:
    return open_corpus(CorpusSettings(uri=str(root), **settings))


def digest_of(root: Path, name: str, content: bytes, **settings: Any) -> list[dict[str, Any]]:
    (root / name).write_bytes(content)
    corpus = corpus_of(root / name, **settings)
    return scan_file(corpus, corpus.files[0]).sort_by("row").to_pylist()


def reasons(root: Path, name: str, content: bytes, **settings: Any) -> list[tuple[str | None, str | None]]:
    return [(row["id"], row["reason"]) for row in digest_of(root, name, content, **settings)]


@pytest.mark.parametrize("suffix", [name for name in sources.FILES if name != "parquet"])
def test_every_format_has_the_documents_that_parquet_has(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)
    for name in ("parquet", suffix):
        sources.write_files(tmp_path / name, name, ROWS)
    found = [
        [
            {name: row[name] for name in ("row", "id", "content_hash", "payload_hash", "text_bytes", "reason")}
            for file in corpus.files
            for row in scan_file(corpus, file).to_pylist()
        ]
        for corpus in (corpus_of(tmp_path / name, payload=["kind"]) for name in ("parquet", suffix))
    ]
    assert found[0] == found[1]
    assert len(found[0]) == len(ROWS)
    corpus = corpus_of(tmp_path / suffix, payload=["kind"])
    text_rows._marks.cache_clear()  # as on a machine that has not read the file
    shards = list(cut_shards(chosen(corpus), 40_000, ""))[::-1]
    read = {
        name: (text, kind)
        for shard in shards
        for batch in read_shard(corpus, shard)
        for name, text, kind in zip(batch.ids, batch.texts, batch.payload["kind"].to_pylist(), strict=True)
    }
    assert len(shards) > 5
    assert read == {name: (text, kind) for name, text, kind in ROWS}


@pytest.mark.parametrize("suffix", [name for name in sources.FILES if name != "parquet"])
def test_ranges_of_rows_are_the_same_from_any_start(tmp_path: Path, suffix: str) -> None:
    sources.write_files(tmp_path, suffix, ROWS, files=1)
    (file,) = list_files(str(tmp_path), "corpus.uri")
    with open_file(str(tmp_path), file) as opened:
        assert opened.count_rows() == len(ROWS)
        for start, stop in [*pairwise(range(0, 1301, 325)), (1299, 1300), (0, 1)]:
            text_rows._marks.cache_clear()
            batches = list(opened.batches(["id"], start, stop))
            assert batches[0].first == start
            assert [name for batch in batches for name in batch.columns["id"].to_pylist()] == [
                name for name, *_ in ROWS[start:stop]
            ]
        with pytest.raises(BadFile, match="ends at row 1300 of 1301"):
            list(opened.batches(["id"], 1200, 1301))


JSON_ROWS = [
    (b'{"id": "a", "text": "x", "n": 1}', ("a", None)),
    (b'{"id": "b", "text": "x", "n": 1', (None, "malformed")),
    (b'["id", "c"]', (None, "malformed")),
    (b"[" * 100_000, (None, "malformed")),
    (b'{"id": "e", "text": "x"}{"id": "f", "text": "y"}', (None, "malformed")),
    (b'{"id": "g", "text": "x", "n": "one"}', ("g", "bad_value")),
    (b'{"id": "h", "text": "x", "n": 1.5}', ("h", "bad_value")),
    (b'{"id": "i", "text": "x", "n": 123456789012345678901234567890}', ("i", "bad_value")),
    (b'{"id": "j", "text": ["x"]}', ("j", "bad_value")),
    (b'{"id": "k", "text": "\xff"}', ("k", "invalid_utf8")),
    (b'{"id": "l", "text": "\\ud800"}', ("l", "invalid_utf8")),
    (b'{"id": "m", "text": "x", "other": "\xff"}', ("m", None)),
    (b'{"id": "n"}', ("n", "null_text")),
    (b'{"id": null, "text": "x"}', (None, "null_id")),
    (b'{"id": 7, "text": "x", "n": 2.0}', ("7", None)),
    (b'{"id": "q", "text": " "}', ("q", "empty_text")),
]


def test_a_bad_line_is_quarantined_alone(tmp_path: Path) -> None:
    # A blank line is none, and the last line needs no newline.
    content = b"\xef\xbb\xbf" + b"\n\n".join(line for line, _ in JSON_ROWS)
    assert reasons(tmp_path, "a.jsonl", content, payload=["n"]) == [found for _, found in JSON_ROWS]


CSV_ROWS = [
    (b"a,x,1", ("a", None)),
    (b"b,x", (None, "malformed")),
    (b"c,x,1,2", (None, "malformed")),
    (b'd,"x"y,1', (None, "malformed")),
    (b"e,x,one", ("e", "bad_value")),
    (b"f,x,1.5", ("f", "bad_value")),
    (b"j,x,00501", ("j", "bad_value")),
    (b"k,x,0", ("k", None)),
    (b"g,\xff,1", ("g", "invalid_utf8")),
    (b"h,,1", ("h", "null_text")),
    (b",x,1", (None, "null_id")),
    (b'i,"x\n""y""",', ("i", None)),
    (b"007,x,2\r", ("007", None)),
]


def test_a_bad_row_of_csv_is_quarantined_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "SAMPLE_BYTES", 5)
    content = b"id,text,n\n" + b"\n\n".join(line for line, _ in CSV_ROWS)
    assert reasons(tmp_path, "a.csv", content, payload=["n"]) == [found for _, found in CSV_ROWS]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"PAR1 and no line of JSON\nPAR1", "none of its first 2 lines"),
        ("a.jsonl.gz", b'{"id": "a", "text": "x"}\n', "incorrect header"),
        ("a.jsonl.gz", gzip.compress(sources.jsonl(ROWS))[:-100], "Truncated"),
        ("a.csv", b"", "it is empty"),
        ("a.csv", b'id,text\na,x\nb,"open\nc,y\n', "inside a quoted field"),
        ("a.csv", b"id,text\n1\n2\n", "none of its first 2 lines"),
        ("a.csv", b"id,te\xffxt\na,b\n", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_bad(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    sound = tmp_path / f"b{name[1:]}"
    sound.write_bytes(sources.FILES[name[2:]]([("s", "sound", "k")]))
    corpus = Corpus(CorpusSettings(uri=str(tmp_path)), list_files(str(tmp_path), ""), pa.schema([]))
    with pytest.raises(BadFile, match=f"{name}: .*{reason}"):
        scan_file(corpus, corpus.files[0])
    assert scan_file(corpus, corpus.files[1]).num_rows == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("a.jsonl", b"\n \n\n"), ("a.jsonl.gz", b""), ("a.ndjson.gz", gzip.compress(b"", mtime=0))],
)
def test_a_file_of_json_lines_without_rows_is_fine(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert corpus_of(tmp_path, payload=["kind"]).payload.types == [pa.null()]
    (tmp_path / "b.jsonl").write_bytes(sources.jsonl(ROWS[:3]))
    corpus = corpus_of(tmp_path, payload=["kind"])
    assert [scan_file(corpus, file).num_rows for file in corpus.files] == [0, 3]


def test_a_key_that_rows_lack_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that begins after the first rows, or that the first file lacks."""
    monkeypatch.setattr(text_rows, "SAMPLE_BYTES", 5)
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "x"}\n{"id": 2, "text": "y", "title": "t", "n": 5}\n')
    (tmp_path / "b.jsonl").write_text('{"id": 3, "title": "only", "n": 7}\n')
    corpus = corpus_of(tmp_path, text_columns=["title", "text"], payload=["n"])
    assert corpus.payload.types == [pa.int64()]
    (shard,) = cut_shards(chosen(corpus), 1 << 20, "")
    found = [
        row
        for batch in read_shard(corpus, shard)
        for row in zip(batch.ids, batch.texts, batch.payload["n"].to_pylist(), strict=True)
    ]
    assert found == [("1", "x", None), ("2", "t\ny", 5), ("3", "only", 7)]


def test_a_key_that_no_row_has_is_missing(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "{name}", "text": "x"}}\n')
    for named in ({"payload": ["kind"]}, {"text_columns": ["title"]}, {"id_column": "key"}):
        with pytest.raises(WrongColumns, match=r"a\.jsonl: column '\w+' is missing; the file has: id, text"):
            corpus_of(tmp_path, **named)
    stored = pa.schema([("kind", pa.int64())])
    assert open_corpus(CorpusSettings(uri=str(tmp_path), payload=["kind"]), stored).payload == stored
    (tmp_path / "b.jsonl").write_text('{"key": "b", "text": "x"}\n')
    corpus = corpus_of(tmp_path)
    with pytest.raises(WrongColumns, match=r"b\.jsonl: column 'id' is missing; the file has: key, text"):
        scan_file(corpus, corpus.files[1])


def test_types_are_those_of_the_first_lines_and_of_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": 1, "text": "x", "n": null, "f": 1, "l": [], "s": {"a": 1}, "b": true, "d": "2026-01-01"}\n'
        '{"id": 2, "text": "x", "n": null, "f": 1.5, "l": null, "s": null, "b": false, "d": null}\n'
    )
    (tmp_path / "b.jsonl").write_text('{"id": 3, "text": "x", "n": 5, "f": 2, "l": ["a"], "s": {}, "b": null, "d": 5}')
    corpus = corpus_of(tmp_path, payload=["n", "f", "l", "s", "b", "d"])
    assert dict(zip(corpus.payload.names, map(str, corpus.payload.types), strict=True)) == {
        "n": "int64", "f": "double", "l": "list<item: string>", "s": "struct<a: int64>", "b": "bool", "d": "string",
    }  # fmt: skip
    assert [scan_file(corpus, file)["reason"].null_count for file in corpus.files] == [2, 1]
    (tmp_path / "c.csv").write_text("id,text,zip,n,f,b,s\n1,x,01234,5,1e3,true,\n2,y,99999,6,2,FALSE,\n")
    found = corpus_of(tmp_path / "c.csv", payload=["zip", "n", "f", "b", "s"]).payload.types
    assert [str(type_) for type_ in found] == ["string", "int64", "double", "bool", "null"]


def test_a_number_that_loses_digits_is_a_bad_value(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text,n,f,i\n1,x,1,0.5,12345678901234567890\n2,x,1,0,1\n")
    lines = ["5,9007199254740992,1", "5,9007199254740993,1", "5,1e300,0", "5,-007.5,0", f"5,{'9' * 5000},0", "+01,1,1"]
    (tmp_path / "b.csv").write_text("\n".join(["id,text,n,f,i", *(f"{at},x,{line}" for at, line in enumerate(lines))]))
    corpus = corpus_of(tmp_path, payload=["n", "f", "i"])
    # Integers alone, of more digits than any number holds, are text.
    assert corpus.payload.types == [pa.int64(), pa.float64(), pa.string()]
    assert scan_file(corpus, corpus.files[0])["reason"].null_count == 2
    found = scan_file(corpus, corpus.files[1]).sort_by("row")["reason"].to_pylist()
    assert found == [None, "bad_value", None, "bad_value", "bad_value", "bad_value"]


def test_a_key_that_the_type_lacks_is_a_bad_value_at_every_depth(tmp_path: Path) -> None:
    types = pa.struct([("x", pa.int64()), ("deep", pa.list_(pa.struct([("y", pa.string())])))])
    rows = [
        ({"x": 1, "deep": [{"y": "a"}, None]}, None),
        ({"x": 1, "z": None, "deep": [{"y": "a", "z": None}]}, None),
        ({"z": 1}, "bad_value"),
        ({"x": 1, "deep": [{"y": "a"}, {"z": []}]}, "bad_value"),
        ({}, None),
        ([], "bad_value"),
    ]
    lines = (json.dumps({"id": str(at), "text": "x", "p": value}) + "\n" for at, (value, _) in enumerate(rows))
    (tmp_path / "a.jsonl").write_text("".join(lines))
    files = list_files(str(tmp_path), "")
    corpus = Corpus(CorpusSettings(uri=str(tmp_path), payload=["p"]), files, pa.schema([("p", types)]))
    digest = scan_file(corpus, files[0]).sort_by("row")
    assert digest["reason"].to_pylist() == [reason for _, reason in rows]


def test_what_a_value_has_left_stays_for_digests_of_earlier_versions() -> None:
    """They take such a row for a usable one, whose payload is read from the file again."""
    column, faults = to_column(["00501", "7", None], pa.int64())
    assert (column.to_pylist(), faults.tolist()) == ([501, 7, None], [Fault.OTHER_TYPE, 0, 0])
    column, faults = to_column([{"x": 1, "z": 2}, {"x": 1.5}], pa.struct([("x", pa.int64())]))
    assert (column.to_pylist(), faults.tolist()) == ([{"x": 1}, None], [Fault.OTHER_TYPE] * 2)


NUMBERS = strategies.integers(-(2**53), 2**53) | strategies.sampled_from([0.5, -2.0, 3])
LEAVES = NUMBERS | strategies.booleans() | strategies.sampled_from(["00501", "5", "x", "1e3"])
OBJECTS = strategies.dictionaries(strategies.sampled_from("abc"), LEAVES, max_size=2)
KINDS = (NUMBERS, strategies.booleans(), LEAVES, OBJECTS, strategies.lists(NUMBERS, max_size=2) | OBJECTS)
COLUMNS = strategies.sampled_from(KINDS).flatmap(lambda kind: strategies.lists(kind | strategies.none(), min_size=1))


def write_column(path: Path, values: list[Any]) -> None:
    """Writes a file with a payload column; CSV has text only."""
    rows = [{"id": f"{path.stem}{at}", "text": "x", "p": value} for at, value in enumerate(values)]
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text", "p"], *(row.values() for row in rows)])


def told(corpus: Corpus) -> Corpus:
    """The corpus as a new index stores it: text where no file shows a type."""
    return replace(corpus, payload=pa.schema([("p", without_null_type(corpus.payload.field("p").type))]))


def values_of(corpus: Corpus, file: DataFile) -> dict[str, Any]:
    """The payload of the usable rows."""
    only = replace(corpus, files=(file,))
    shards = cut_shards(chosen(only), 1 << 20, "")
    batches = [batch for shard in shards for batch in read_shard(only, shard)]
    return {name: row["p"] for batch in batches for name, row in zip(batch.ids, batch.payload.to_pylist(), strict=True)}


def is_told(value: Any, stored: Any) -> bool:
    """Whether a stored value says what the file says."""
    if isinstance(stored, str):
        return str(value) == stored
    if isinstance(value, dict):
        told = {key: item for key, item in value.items() if item is not None}
        return all(is_told(item, stored[key]) for key, item in told.items())
    if isinstance(value, list):
        return len(value) == len(stored) and all(map(is_told, value, stored))
    if isinstance(value, str):
        return json.loads(value.lower()) == stored
    return bool(value == stored)


@settings(deadline=None)
@given(
    suffix=strategies.sampled_from(["csv", "jsonl"]), old=strategies.lists(COLUMNS, min_size=1, max_size=2), new=COLUMNS
)
def test_a_file_that_sorts_first_changes_no_value_of_another(suffix: str, old: list[list[Any]], new: list[Any]) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        columns = dict(zip("bc", old, strict=False))
        for name, values in columns.items():
            write_column(root / f"{name}.{suffix}", values)
        before = told(corpus_of(root, payload=["p"]))
        known = {file.path: values_of(before, file) for file in before.files}
        write_column(root / f"a.{suffix}", new)
        after = told(open_corpus(before.settings, before.payload))
        for file in before.files:
            values = columns[Path(file.path).stem]
            found = values_of(after, file)
            assert found.keys() >= known[file.path].keys()
            assert all(is_told(values[int(name[1:])], value) for name, value in found.items())


def test_columns_are_checked_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text,text\n1,x,y\n")
    with pytest.raises(WrongColumns, match="'text' occurs twice"):
        corpus_of(tmp_path)
    (tmp_path / "a.csv").write_text("id,body\n1,x\n")
    with pytest.raises(WrongColumns, match=r"'text' is missing; the file has: id, body"):
        corpus_of(tmp_path)


def test_a_directory_has_one_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("csv", "jsonl", "jsonl.gz"):
        sources.write_files(tmp_path, suffix, ROWS[:4], files=1)
    assert [Path(file.path).name for file in corpus_of(tmp_path).files] == ["part-0.jsonl", "part-0.jsonl.gz"]
    assert "1 without the suffix of a JSON Lines file" in capsys.readouterr().err
    sources.write_files(tmp_path, "parquet", ROWS[:4], files=1)
    assert [Path(file.path).name for file in corpus_of(tmp_path).files] == ["part-0.parquet"]
    assert len(corpus_of(tmp_path / "*.csv").files) == 1
    with pytest.raises(CorpusError, match="no Parquet, Lance, JSON Lines, CSV or TSV file"):
        corpus_of(tmp_path / "*.txt")


def test_a_name_tells_the_format() -> None:
    names = {"a.PARQUET": "Parquet", "a.JSONL.gz": "JSON Lines", "a.csv.bz2": "CSV", "a.tsv": "TSV", "a": "Parquet"}
    assert {name: format_of(name).name for name in names} == names


def test_a_changed_file_has_no_marks_of_the_old_one() -> None:
    marks = text_rows._marks("ArrowPlace", DataFile("a.jsonl", 5, 1))
    marks[7] = 9
    assert text_rows._marks("ArrowPlace", DataFile("a.jsonl", 5, 2)) == {}
