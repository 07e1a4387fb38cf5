"""Which files are data: one rule for directories and globs, and a word about the rest."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.corpus.digests import scan_file
from indexer.corpus.documents import open_corpus, read_part
from indexer.corpus.files import DataFile
from indexer.corpus.shards import cut_shards
from indexer.errors import BadFile, CorpusError
from indexer.settings import CorpusSettings
from tests.corpus.test_documents import chosen
from tests.support.fakes import words, write

DATA = [
    "a.parquet",
    "b.parq",
    "c.PARQUET",
    "d.pq",
    "lang=de/e.snappy.parquet",
    "_year=2026/f.parquet",
    "g.parquet/h.parquet",
]

CLUTTER = ["_SUCCESS", "_metadata", ".a.parquet.crc", "_temporary/0/x.parquet", ".hidden/y.parquet", "README.md"]


@pytest.mark.parametrize("pattern", ["", "**"])
def test_directories_and_globs_have_one_rule(tmp_path: Path, pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [*DATA, *CLUTTER]:
        write(tmp_path / name, words(2))
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path / pattern)))
    assert [file.path for file in corpus.files] == sorted(str(tmp_path / name) for name in DATA)
    said = capsys.readouterr().err
    assert "5 hidden or temporary" in said
    assert "1 without the suffix of a Parquet file" in said
    assert "README.md" in said


def test_a_place_without_data_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "part-0.txt").write_text("id,text\n")
    with pytest.raises(CorpusError, match=r"no Parquet, .* file at .*1 without the suffix .*part-0\.txt"):
        open_corpus(CorpusSettings(uri=str(tmp_path)))


def test_a_name_that_is_not_utf8_costs_its_file_only(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", words(2))
    write(tmp_path / "b.parquet", words(2))
    os.rename(os.fsencode(tmp_path / "b.parquet"), os.fsencode(tmp_path) + b"/b\xff.parquet")  # noqa: PTH104
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path)))
    assert [Path(file.path).name for file in corpus.files] == ["a.parquet", "b\\xff.parquet"]
    assert scan_file(corpus, corpus.files[0]).num_rows == 2
    with pytest.raises(BadFile, match=r"not UTF-8.*rename it"):
        scan_file(corpus, corpus.files[1])


@pytest.mark.timeout(60)  # followed in circles, links double the files 40 times
def test_links_are_followed_but_not_in_a_circle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    for name in ("1.parquet", "a/2.parquet", "b/3.parquet"):
        write(corpus / name, words(2))
    write(other / "4.parquet", words(2))
    links = {"loop": corpus, "up": tmp_path, "a/b": corpus / "b", "b/a": corpus / "a", "other": other}
    for name, target in (links | {"5.parquet": other / "4.parquet", "6.parquet": tmp_path / "nowhere"}).items():
        (corpus / name).symlink_to(target)
    found = [file.path.removeprefix(f"{corpus}/") for file in open_corpus(CorpusSettings(uri=str(corpus))).files]
    once = ["1.parquet", "5.parquet", "a/2.parquet", "a/b/3.parquet", "b/3.parquet", "b/a/2.parquet", "other/4.parquet"]
    assert found == once
    assert f"left out below {corpus}: 4 that link to a folder that holds them: a/b/a, b/a/b, loop, ...\n" in (
        capsys.readouterr().err
    )


def test_directories_name_columns(tmp_path: Path) -> None:
    for name, folder in (("a", "lang=de"), ("b", "lang=%C3%A9%2F"), ("c", "lang=__HIVE_DEFAULT_PARTITION__")):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"id": [name], "text": [name]}), tmp_path / folder / "0.parquet")
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path), payload=["lang"]))
    (shard,) = cut_shards(chosen(corpus), 10_000, "")
    found = [documents for part in shard.parts for documents in read_part(corpus, part)]
    rows = {documents.ids[0]: documents.payload["lang"].to_pylist() for documents in found}
    assert rows == {"a": ["de"], "b": ["é/"], "c": [None]}
    with pytest.raises(CorpusError, match="directory names are read for payload only"):
        open_corpus(CorpusSettings(uri=str(tmp_path), id_column="lang"))
    write(tmp_path / "flat.parquet", words(2))
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path), payload=["lang"], strict=False))
    with pytest.raises(CorpusError, match=r"flat\.parquet: column 'lang' is missing"):
        scan_file(corpus, corpus.files[0])


def test_page_checksums_are_verified(tmp_path: Path) -> None:
    texts = [f"the price is {1000 + row} euros" for row in range(50)]
    path = tmp_path / "a.parquet"
    table = pa.table({"id": [f"{row}" for row in range(50)], "text": texts})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.find(b"price is 1025") + 9] ^= 8
    path.write_bytes(content)
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path)))
    with pytest.raises(BadFile, match=r"a\.parquet: damaged"):
        scan_file(corpus, corpus.files[0])


def test_names_of_directories_are_read_as_they_were_escaped() -> None:
    file = DataFile("/corpus/lang=en%20GB/q=a=b/odd=%E9/none=__HIVE_DEFAULT_PARTITION__/empty=/x=1.parquet", 1, 1)
    assert file.partitions == {"lang": "en GB", "q": "a=b", "odd": "%E9", "none": None, "empty": ""}


def test_files_of_earlier_versions_are_not_read_again() -> None:
    """Their digests have these names, as far as no object store tells an etag."""
    file = DataFile("corpus/a.parquet", 10, 5)
    assert file.identity == "7aa34aa0c2984c1e9bd4acff7acd1846"
    assert replace(file, content="ab").identity == "9c18d018d712e238b8a2cc1ba2376e54"
    assert replace(file, content="ab", etag="x").identity == "9c18d018d712e238b8a2cc1ba2376e54"
