"""Lance datasets: a fragment is a file, deleted rows are not there, what changes is read again."""

from pathlib import Path
from urllib.parse import quote

import lance
import pytest

from indexer.corpus.digests import scan_file
from indexer.corpus.documents import Corpus, open_corpus, read_part
from indexer.corpus.files import DataFile
from indexer.corpus.shards import cut_shards
from indexer.errors import BadFile, CorpusError
from indexer.settings import CorpusSettings
from tests.corpus.test_documents import chosen
from tests.support import sources

ROWS = [(f"d{row:04d}", f"text {row}", "ab"[row % 2]) for row in range(2200)]


def corpus_of(root: Path) -> Corpus:
    return open_corpus(CorpusSettings(uri=str(root), payload=["kind"]))


def ids(corpus: Corpus) -> list[str]:
    return sorted(name for file in corpus.files for name in scan_file(corpus, file)["id"].to_pylist())


@pytest.mark.parametrize("place", ["", "docs.lance", "*.lance", "**"])
def test_fragments_are_files(tmp_path: Path, place: str) -> None:
    sources.lance_dataset(tmp_path, ROWS)
    (tmp_path / "notes.txt").write_text("no data")
    corpus = corpus_of(tmp_path / place)
    assert [Path(file.path).name for file in corpus.files] == ["docs.lance#0", "docs.lance#1"]
    assert ids(corpus) == [name for name, *_ in ROWS]
    shards = list(cut_shards(chosen(corpus), 100_000, ""))
    read = [
        row
        for shard in shards
        for part in shard.parts
        for batch in read_part(corpus, part)
        for row in zip(batch.ids, batch.texts, batch.payload["kind"].to_pylist(), strict=True)
    ]
    assert len(shards) > 3
    assert read == ROWS


@pytest.mark.parametrize("name", ["plain", "a space", "ha#sh", "que?ry", "per%25cent", "\u00fc"])
def test_a_uri_is_found_whatever_has_to_be_escaped(tmp_path: Path, name: str) -> None:
    sources.lance_dataset(tmp_path / name, ROWS[:10])
    corpus = open_corpus(CorpusSettings(uri=f"file://{quote(str(tmp_path / name))}"))
    assert [file.path for file in corpus.files] == [f"{tmp_path}/{name}/docs.lance#{number}" for number in range(2)]
    assert ids(corpus) == [name for name, *_ in ROWS[:10]]


def test_only_fragments_that_change_are_read_again(tmp_path: Path) -> None:
    sources.lance_dataset(tmp_path, ROWS)
    before = corpus_of(tmp_path)
    dataset = lance.dataset(f"{tmp_path}/docs.lance")
    dataset.insert(sources.table([("new", "a text", "a")]))
    after = corpus_of(tmp_path)
    assert [file.identity for file in after.files[:2]] == [file.identity for file in before.files]
    assert scan_file(before, before.files[0]).num_rows > 1000, "it is still there"
    dataset.delete("id = 'd0001'")
    last = corpus_of(tmp_path)
    assert [ours == theirs for ours, theirs in zip(after.files, last.files, strict=True)] == [False, True, True]
    with pytest.raises(BadFile, match=r"docs\.lance#0: changed since it was listed"):
        scan_file(before, before.files[0])
    dataset.optimize.compact_files()
    with pytest.raises(BadFile, match=r"docs\.lance#1: .*since it was listed"):
        scan_file(before, before.files[1])
    assert ids(corpus_of(tmp_path)) == sorted({"new", *(name for name, *_ in ROWS)} - {"d0001"})


def test_a_damaged_fragment_is_a_bad_file_and_a_damaged_dataset_ends_the_run(tmp_path: Path) -> None:
    sources.lance_dataset(tmp_path, ROWS)
    corpus = corpus_of(tmp_path)
    damage(tmp_path, corpus.files[1])
    assert scan_file(corpus, corpus.files[0]).num_rows > 1000
    with pytest.raises(BadFile, match=r"docs\.lance#1: "):
        scan_file(corpus, corpus.files[1])
    for manifest in (tmp_path / "docs.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"")
    with pytest.raises(CorpusError, match=r"cannot be listed: .*docs\.lance"):
        corpus_of(tmp_path)


def damage(root: Path, file: DataFile) -> None:
    """Cuts the data file of a fragment."""
    fragment = lance.dataset(f"{root}/docs.lance").get_fragment(int(file.path.rpartition("#")[2]))
    path = root / "docs.lance" / "data" / fragment.metadata.files[0].path
    path.write_bytes(path.read_bytes()[:-40])
