"""Data sets of the Hugging Face hub, read through its own client from a stand-in for its HTTP API."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.corpus.digests import scan_file
from indexer.corpus.documents import Corpus, open_corpus
from indexer.errors import BadFile, CorpusError
from indexer.settings import CorpusSettings
from tests.support import sources
from tests.support.hub import REPO, Hub, hub_of

ROWS = [(f"d{row}", f"text {row}", "ab"[row % 2]) for row in range(60)]

ROOT = f"hf://datasets/{REPO}"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    sources.write_files(tmp_path / "data", "parquet", ROWS)
    (tmp_path / "README.md").write_text("a card")
    with hub_of(tmp_path) as server:
        yield server


def corpus_of(uri: str, **settings: object) -> Corpus:
    return open_corpus(CorpusSettings(uri=uri, payload=["kind"], **settings))  # type: ignore[arg-type]


def ids(corpus: Corpus) -> list[str]:
    return sorted(name for file in corpus.files for name in scan_file(corpus, file)["id"].to_pylist())


@pytest.mark.parametrize("place", ["", "/data", "/data/", "/data/part-*.parquet", "@main/data"])
@pytest.mark.usefixtures("hub")
def test_a_data_set_is_listed_and_read(place: str) -> None:
    corpus = corpus_of(f"{ROOT}{place}")
    assert ids(corpus) == sorted(name for name, *_ in ROWS)
    revision = "@main" if "@" in place else ""
    assert [file.path for file in corpus.files] == [
        f"datasets/{REPO}{revision}/data/part-{number}.parquet" for number in range(2)
    ]
    assert all(file.content for file in corpus.files)
    assert corpus_of(f"{ROOT}{place}", identity="content").digest == corpus.digest, "the hub tells the bytes' digest"


def test_other_bytes_are_another_file_though_the_hub_tells_no_time(hub: Hub) -> None:
    before = corpus_of(f"{ROOT}/data")
    path = hub.folder / "data" / "part-0.parquet"
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(content)
    after = corpus_of(f"{ROOT}/data")
    assert [ours == theirs for ours, theirs in zip(before.files, after.files, strict=True)] == [False, True]
    with pytest.raises(BadFile, match="changed since it was listed"):
        scan_file(before, before.files[0])
    path.unlink()
    with pytest.raises(BadFile, match="gone since it was listed"):
        scan_file(after, after.files[0])


def test_failed_requests_are_repeated(hub: Hub) -> None:
    hub.failures = 1
    assert len(ids(corpus_of(f"{ROOT}/data"))) == 60
    assert hub.failures == 0


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("hf://datasets/owner/other", "cannot be listed: .*404"),
        (f"{ROOT}/nothing", "no Parquet, .* file at the hf URI"),
        ("hf://owner/model", "hf://datasets/owner/name"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_is_not_there_is_named(uri: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason):
        corpus_of(uri)
