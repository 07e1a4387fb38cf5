"""S3, Google Cloud Storage and Azure: the same files by the same rules, with the variables that the index has."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from indexer.corpus.digests import scan_file
from indexer.corpus.documents import open_corpus
from indexer.corpus.object_store import open_store
from indexer.errors import BadFile, CorpusError
from indexer.settings import CorpusSettings
from tests.support import sources, stores
from tests.support.stores import Store

pytestmark = pytest.mark.heavy

ROWS = [(f"d{row}", f"text {row}", "ab"[row % 2]) for row in range(60)]


@pytest.fixture(scope="module", params=[sources.param(name) for name in stores.STORES])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with stores.STORES[request.param]() as (root, put):
        for suffix in ("parquet", "jsonl.gz"):
            for number in range(2):
                content = sources.FILES[suffix](ROWS[number * 30 : number * 30 + 30])
                put(f"a {suffix}/lang=d%C3%A9/part-{number}.{suffix}", content)
                put(f"a {suffix}/_temporary/part-{number}.{suffix}", content)
        yield root, put


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz"])
@pytest.mark.parametrize("place", ["a {}", "a%20{}/", "a {}/**/part-?.{}", "a {}/lang=d%25C3%25A9"])
def test_a_store_is_listed_and_read_as_a_disk_is(store: Store, suffix: str, place: str) -> None:
    root, _ = store
    corpus = open_corpus(CorpusSettings(uri=f"{root}/{place.format(suffix, suffix)}", payload=["kind", "lang"]))
    bucket = root.partition("://")[2]
    assert [file.path for file in corpus.files] == [
        f"{bucket}/a {suffix}/lang=d%C3%A9/part-{number}.{suffix}" for number in range(2)
    ]
    assert {file.partitions["lang"] for file in corpus.files} == {"dé"}
    found = [name for file in corpus.files for name in scan_file(corpus, file)["id"].to_pylist()]
    assert sorted(found) == sorted(name for name, *_ in ROWS)


@pytest.mark.parametrize("name", ["a space", "ha#sh", "que?ry", "per%25cent"])
def test_a_lance_dataset_is_found_whatever_has_to_be_escaped(store: Store, tmp_path: Path, name: str) -> None:
    root, put = store
    sources.lance_dataset(tmp_path, ROWS)
    for path in tmp_path.rglob("*.*"):
        if path.is_file():
            put(f"{name}/{path.relative_to(tmp_path)}", path.read_bytes())
    corpus = open_corpus(CorpusSettings(uri=f"{root}/{quote(name)}"))
    found = [name for file in corpus.files for name in scan_file(corpus, file)["id"].to_pylist()]
    assert sorted(found) == sorted(name for name, *_ in ROWS)


def test_bad_files_end_as_on_a_disk(store: Store) -> None:
    root, put = store
    put("bad/a.parquet", sources.parquet(ROWS))
    put("bad/b.parquet", sources.parquet(ROWS)[:-20])
    corpus = open_corpus(CorpusSettings(uri=f"{root}/bad"))
    assert scan_file(corpus, corpus.files[0]).num_rows == 60
    with pytest.raises(BadFile, match=r"b\.parquet: not a Parquet file"):
        scan_file(corpus, corpus.files[1])
    put("bad/a.parquet", sources.parquet(ROWS[:50]))
    with pytest.raises(BadFile, match=r"a\.parquet: changed since it was listed"):
        scan_file(corpus, corpus.files[0])
    with pytest.raises(CorpusError, match=r"no Parquet, .* file at the .* URI"):
        open_corpus(CorpusSettings(uri=f"{root}/nothing"))


def test_a_second_upload_of_the_same_size_within_a_second_is_seen(store: Store) -> None:
    root, put = store
    versions = [sources.parquet([(name, "text", "a")]) for name in ("d1", "d2")]
    assert len(versions[0]) == len(versions[1])
    for _ in range(9):
        corpora = []
        for content in versions:
            put("twice/a.parquet", content)
            corpora.append(open_corpus(CorpusSettings(uri=f"{root}/twice")))
        (before,), (after,) = (corpus.files for corpus in corpora)
        if before.mtime_ns == after.mtime_ns:
            break
    assert (before.path, before.size, before.mtime_ns) == (after.path, after.size, after.mtime_ns)
    assert before.identity != after.identity
    assert scan_file(corpora[1], after)["id"].to_pylist() == ["d2"]
    with pytest.raises(BadFile, match=r"a\.parquet: changed since it was listed"):
        scan_file(corpora[0], before)
    # A listing and an answer about one object tell the same.
    assert open_corpus(CorpusSettings(uri=f"{root}/twice/a.parquet")).files == (after,)
    # An etag is no digest of ours: whoever asks for one gets it from the bytes.
    (read,) = open_corpus(CorpusSettings(uri=f"{root}/twice", identity="content")).files
    assert read.content == hashlib.blake2b(versions[1], digest_size=16).hexdigest()
    assert scan_file(corpora[1], read).num_rows == 1


def test_a_store_may_be_named_in_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    with stores.s3() as (_, put):
        put("docs/a.parquet", sources.parquet(ROWS))
        host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ALLOW_HTTP"):
            monkeypatch.delenv(name)
        uri = f"s3://bucket/docs?endpoint_override={host}&scheme=http&region=us-east-1"
        assert len(open_corpus(CorpusSettings(uri=uri)).files) == 1
    with pytest.raises(CorpusError, match=r"the s3 URI .*: its query has 'project_id', which is not read"):
        open_corpus(CorpusSettings(uri="s3://bucket/docs?project_id=x"))


def test_paths_begin_with_the_bucket() -> None:
    assert open_store("s3://bucket/a=b/part-?.parquet")[1] == "bucket/a=b/part-?.parquet"
    place, path = open_store("abfss://box@account.dfs.core.windows.net/docs/a")
    assert (path, place.uri(path)) == ("box/docs/a", "abfss://box@account.dfs.core.windows.net/docs/a")
