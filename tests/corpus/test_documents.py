"""Reading Parquet corpora."""

import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies

from indexer.corpus.digests import scan_file
from indexer.corpus.documents import Corpus, open_corpus, read_shard
from indexer.corpus.files import DataFile
from indexer.corpus.shards import LEAST_BYTES, PAYLOAD_BYTES, ChosenRows, Shard, cut_shards
from indexer.errors import CorpusError
from indexer.settings import CorpusSettings
from tests.support.fakes import words, write


def chosen(corpus: Corpus) -> list[ChosenRows]:
    """Every usable row of a corpus."""
    digests = [(file, scan_file(corpus, file).sort_by("row")) for file in corpus.files]
    usable = [(file, digest.filter(pc.field("reason").is_null())) for file, digest in digests]
    return [given_rows(file, *(rows[name].to_numpy() for name in SIZES), rows) for file, rows in usable]


SIZES = ("row", "text_bytes", "payload_bytes")


def given_rows(
    file: DataFile, rows: np.ndarray, texts: np.ndarray, payloads: np.ndarray, digest: pa.Table
) -> ChosenRows:
    return ChosenRows(file, rows, texts, payloads, digest.select(["id", "content_hash", "payload_hash"]))


def read_all(corpus: Corpus, shards: list[Shard]) -> list[tuple[str, str]]:
    return [
        row
        for shard in shards
        for documents in read_shard(corpus, shard)
        for row in zip(documents.ids, documents.texts, strict=True)
    ]


def test_a_huge_row_group_is_split_and_small_files_share_a_shard(tmp_path: Path) -> None:
    documents = words(3000)
    write(tmp_path / "huge.parquet", documents[:2900], rows_per_group=5000)
    for number in range(10):
        write(tmp_path / "small" / f"{number}.parquet", documents[2900 + 10 * number : 2910 + 10 * number])
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path)))
    shards = list(cut_shards(chosen(corpus), 600 * LEAST_BYTES, "salt"))
    assert [shard.documents for shard in shards] == [600] * 5
    assert sum(shard.text_bytes for shard in shards) == sum(len(text.encode()) for _, text in documents)
    assert len(shards[-1].parts) > 5
    found = list(read_shard(corpus, shards[-1]))
    assert all(len(documents.payload_hash) == len(documents.ids) for documents in found), "without a payload too"
    assert sorted(read_all(corpus, shards)) == sorted(documents)
    assert sum(shard.documents for shard in shards) == 3000


def sized_rows(path: str, texts: list[int], payloads: list[int]) -> ChosenRows:
    count = len(texts)
    ids = pa.table({"id": [f"{row}" for row in range(count)]})
    sizes = (np.array(column, np.int64) for column in (texts, payloads))
    return ChosenRows(DataFile(path, 1, 1), np.arange(count) * 3, *sizes, ids)


def test_a_shard_ends_where_its_payload_is_large() -> None:
    many = sized_rows("a", [10] * 100, [PAYLOAD_BYTES // 7] * 100)
    assert [shard.documents for shard in cut_shards([many], 1 << 30, "")] == [8] * 12 + [4]
    one = sized_rows("b", [10], [3 * PAYLOAD_BYTES])
    assert [shard.documents for shard in cut_shards([one, many], 1 << 30, "")][:2] == [1, 8]


def test_a_shard_is_named_after_what_its_rows_hold(tmp_path: Path) -> None:
    """Not after the file's time and size: the same rows are the same work, others are not."""
    pq.write_table(pa.table({"id": ["a", "b"], "other": ["c", "d"], "text": ["t", "u"]}), tmp_path / "a.parquet")

    def name(**given: object) -> str:
        corpus = open_corpus(CorpusSettings(uri=str(tmp_path), **given))
        (shard,) = cut_shards(chosen(corpus), 10_000, "salt")
        return shard.shard_id

    first = name()
    assert len({first, name(id_column="other"), name(text_columns=["other"]), name(payload=["other"])}) == 4
    (tmp_path / "a.parquet").touch()
    assert name() == first


@given(
    sizes=strategies.lists(strategies.integers(LEAST_BYTES, 50 * LEAST_BYTES), max_size=60),
    cuts=strategies.lists(strategies.integers(0, 60), max_size=3),
    shard_bytes=strategies.integers(1, 200 * LEAST_BYTES),
)
def test_shards_hold_every_row_once(sizes: list[int], cuts: list[int], shard_bytes: int) -> None:
    bounds = [0, *sorted(min(cut, len(sizes)) for cut in cuts), len(sizes)]
    files = [sized_rows(str(start), sizes[start:stop], [0] * (stop - start)) for start, stop in pairwise(bounds)]
    shards = list(cut_shards(files, shard_bytes, ""))
    rows = [
        (part.file.path, row)
        for shard in shards
        for part in shard.parts
        for row in np.flatnonzero(part.chosen) + part.start
    ]
    assert rows == [(file.file.path, row) for file in files for row in file.rows]
    assert all(shard.text_bytes >= shard_bytes for shard in shards[:-1])
    assert sum(shard.text_bytes for shard in shards) == sum(sizes)


def test_shard_ids_name_the_content(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", words(100))
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path)))
    ids = [shard.shard_id for shard in cut_shards(chosen(corpus), 1000, "salt")]
    assert len(set(ids)) == len(ids) > 2
    assert ids == [shard.shard_id for shard in cut_shards(chosen(corpus), 1000, "salt")]
    assert not set(ids) & {shard.shard_id for shard in cut_shards(chosen(corpus), 1000, "other")}


def test_every_unusable_row_has_a_reason(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b" \t\n", b"", None, b"x", "\u00e9 \x00".encode()], pa.binary())
    texts = pa.StringArray.from_buffers(7, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    table = pa.table({"id": ["a", "b", "c", "d", "e", None, "it's\n/a"], "text": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path)))
    digest = scan_file(corpus, corpus.files[0]).sort_by("row")
    assert digest["reason"].to_pylist() == [
        None,
        "invalid_utf8",
        "empty_text",
        "empty_text",
        "null_text",
        "null_id",
        None,
    ]
    assert read_all(corpus, list(cut_shards(chosen(corpus), 10, ""))) == [("a", "fine"), ("it's\n/a", "\u00e9 \x00")]


def test_column_types_are_read_as_what_they_mean(tmp_path: Path) -> None:
    table = pa.table(
        {
            "key": pa.array([1, 2], pa.uint16()),
            "title": pa.array(["one", "two"]).dictionary_encode(),
            "body": pa.array(["first", None], pa.large_string()),
            "when": pa.array([datetime.datetime(2026, 1, 2), None], pa.timestamp("us")),
            "price": pa.array([Decimal("1.50"), Decimal("2.25")]),
            "tags": pa.array([["x"], []], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    names = CorpusSettings(
        uri=str(tmp_path), id_column="key", text_columns=["title", "body"], payload=["title", "when", "price", "tags"]
    )
    corpus = open_corpus(names)
    (documents,) = [
        part for shard in cut_shards(chosen(corpus), 2 * LEAST_BYTES, "") for part in read_shard(corpus, shard)
    ]
    assert documents.ids == ["1", "2"]
    assert documents.texts == ["one\nfirst", "two"]
    assert documents.payload.to_pylist() == table.select(["title", "when", "price", "tags"]).to_pylist()
    assert len(set(documents.payload_hash.to_pylist())) == 2


def test_the_hash_of_bytes_does_not_depend_on_the_rows_beside_them(tmp_path: Path) -> None:
    hashes = []
    for number, values in enumerate([[b"text"], [b"text", b"\xff"]]):
        file = tmp_path / str(number) / "a.parquet"
        file.parent.mkdir()
        rows = range(len(values))
        table = {
            "id": [str(row) for row in rows],
            "text": ["a text"] * len(rows),
            "kind": pa.array(values, pa.binary()),
        }
        pq.write_table(pa.table(table), file)
        corpus = open_corpus(CorpusSettings(uri=str(file), payload=["kind"]))
        hashes.append(scan_file(corpus, corpus.files[0]).sort_by("row")["payload_hash"][0])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["a.parquet", "deep/b.parquet"]),
        ("a.parquet", ["a.parquet"]),
        ("*.parquet", ["a.parquet"]),
        ("**/*.parquet", ["a.parquet", "deep/b.parquet"]),
        ("deep/[abc].parquet", ["deep/b.parquet"]),
    ],
)
def test_files_are_found_by_path_directory_and_glob(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("a.parquet", "deep/b.parquet", "_temporary/c.parquet", ".hidden.parquet"):
        write(tmp_path / name, words(2))
    (tmp_path / "notes.txt").write_text("no data")
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path / pattern)))
    ours = [file.path for file in corpus.files if "_temporary" not in file.path and "/.hidden" not in file.path]
    assert ours == [str(tmp_path / name) for name in found]
    if not pattern:
        assert len(corpus.files) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_columns": ["body"]}, r"a\.parquet: column 'body' is missing"),
        ({"payload": ["language"]}, r"a\.parquet: column 'language' is missing"),
        ({"id_column": "score"}, r"a\.parquet: id column 'score' is double"),
        ({"text_columns": ["score"]}, r"a\.parquet: text column 'score' is double"),
    ],
)
def test_unusable_columns_are_named(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["b"], "score": [1.0]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=message):
        open_corpus(CorpusSettings(uri=str(tmp_path), **settings))


def test_a_file_with_other_payload_types_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["b"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["b"], "text": ["b"], "n": ["one"]}), tmp_path / "b.parquet")
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path), payload=["n"]))
    with pytest.raises(CorpusError, match=r"b\.parquet: payload column 'n' is string, elsewhere int64"):
        scan_file(corpus, corpus.files[1])


def test_a_file_that_changes_while_the_run_goes_on_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", words(10))
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path)))
    shards = list(cut_shards(chosen(corpus), 10_000, ""))
    write(tmp_path / "a.parquet", words(11))
    with pytest.raises(CorpusError, match=r"a\.parquet: changed"):
        read_all(corpus, shards)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", words(1000), rows_per_group=1000)
    file = tmp_path / "a.parquet"
    content = bytearray(file.read_bytes())
    content[200:900] = bytes(700)
    file.write_bytes(content)
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path)))
    with pytest.raises(CorpusError, match=r"a\.parquet: damaged"):
        scan_file(corpus, corpus.files[0])
