"""Files that are damaged, hostile, or change while they are read: the file is left out by name, the run goes on."""

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from indexer.corpus import digests, files
from indexer.corpus.documents import open_corpus
from indexer.errors import BadFile, CorpusError, RefusedError, WrongColumns
from indexer.indexing import changes, sandbox, scan
from indexer.indexing.sandbox import Reader, ReaderProcess
from indexer.search import published
from indexer.settings import CorpusSettings, Settings
from indexer.storage.control import ControlStore
from tests.support.fakes import published_rows, quarantine, run_here, settings, words, write

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("reading_process")]


def given_corpus(root: Path, **corpus: object) -> Settings:
    """Two sound files around the one under test."""
    write(root / "corpus" / "a.parquet", words(30))
    write(root / "corpus" / "c.parquet", [(f"c-{name}", text) for name, text in words(30)])
    return settings(root, corpus=corpus, gates={"max_quarantined": 0.5, "max_removed": 0.6})


def truncated(path: Path) -> None:
    write(path, words(50))
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    write(path, words(50))
    content = bytearray(path.read_bytes())
    content[4:60] = os.urandom(56)
    path.write_bytes(content)


def miscounted(path: Path) -> None:
    """One bit of the footer says that a row group has other rows, and the file can be opened nevertheless."""
    write(path, words(50))
    sound = path.read_bytes()
    for at in range(len(sound) - 9, 0, -1):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with suppress(OSError, pa.ArrowException):
            metadata = pq.read_metadata(path)
            groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            if sum(groups) != metadata.num_rows:
                return
    raise AssertionError("no such bit")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("id,text\n1,not Parquet\n")


class _Keys(pe.KmsClient):
    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, _: str) -> bytes:
        return key_bytes.hex().encode()

    def unwrap_key(self, wrapped_key: bytes, _: str) -> bytes:
        return bytes.fromhex(bytes(wrapped_key).decode())


def encrypted(path: Path) -> None:
    table = pa.table({"id": ["a"], "text": ["b"], "kind": ["page"]})
    factory, connection = pe.CryptoFactory(_Keys), pe.KmsConnectionConfig()
    configuration = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["text"]})
    properties = factory.file_encryption_properties(connection, configuration)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


DAMAGES = (truncated, flipped, miscounted, empty, text, encrypted)


def test_bad_files_are_left_out_by_name_and_tried_again(tmp_path: Path) -> None:
    given = given_corpus(tmp_path)
    given = given.model_copy(update={"gates": given.gates.model_copy(update={"max_quarantined": 0.9})})
    bad = {damage.__name__: tmp_path / "corpus" / f"b-{damage.__name__}.parquet" for damage in DAMAGES}
    for damage in DAMAGES:
        damage(bad[damage.__name__])
    summary = run_here(given)
    rows = published.open_published(given.index.uri, "docs").quarantine().to_pylist()
    for kind, path in bad.items():
        about = [(row["id"], row["reason"]) for row in rows if row["file"] == str(path)]
        assert about == [(None, "bad_file")], f"{kind}: left out once, by name"
        (detail,) = (row["detail"] for row in rows if row["file"] == str(path))
        assert detail.startswith(f"{path}: "), kind
        reason = detail.removeprefix(f"{path}: ")
        assert re.search(r"\w+( \w+){3}", reason), f"{kind}: a reason, and not the name of an error"
    assert (summary["indexed"], summary["quarantined"]) == (60, len(bad))
    assert run_here(given)["epoch"] == 1, "nothing changed, nothing published"

    mended = {kind: [(f"{kind}-{name}", text) for name, text in words(10)] for kind in bad}
    for kind, path in bad.items():
        write(path, mended[kind])
    assert run_here(given)["indexed"] == 10 * len(bad)
    assert quarantine(given) == []
    found = {name for name, _ in published_rows(given, 96)}
    for kind in bad:
        assert {name for name, _ in mended[kind]} <= found, f"{kind}: read again once it is mended"


@pytest.mark.parametrize("without_footer", [True, False])
def test_the_first_file_may_be_the_bad_one(tmp_path: Path, *, without_footer: bool) -> None:
    given = given_corpus(tmp_path)
    first = tmp_path / "corpus" / "a.parquet"
    column_is_no_text = first.read_bytes().replace(b"kind", b"k\xffnd")
    first.write_bytes(b"PAR1 and nothing else PAR1" if without_footer else column_is_no_text)
    assert run_here(given)["indexed"] == 30


def lacks_a_column(path: Path) -> None:
    pq.write_table(pa.table({"id": ["x"], "text": ["y"]}), path)


def other_type(path: Path) -> None:
    pq.write_table(pa.table({"id": ["x"], "text": ["y"], "kind": [1]}), path)


@pytest.mark.parametrize("drift", [lacks_a_column, other_type])
def test_other_columns_end_the_run_unless_told_otherwise(tmp_path: Path, drift: Callable[[Path], None]) -> None:
    given = given_corpus(tmp_path)
    drift(tmp_path / "corpus" / "b.parquet")
    with pytest.raises(CorpusError, match=r"b\.parquet: .*'kind'.*corpus\.strict = false"):
        run_here(given)
    loose = given_corpus(tmp_path, strict=False)
    assert run_here(loose)["indexed"] == 60
    assert quarantine(loose) == [(None, "wrong_columns")]


def test_our_own_fault_is_no_bad_file(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path / "corpus")))
    broken = Reader(corpus, str(tmp_path / "index"), "docs")
    (tmp_path / "index").write_text("no directory")
    kind, message, _ = sandbox._answer(broken, corpus.files[0])
    assert kind == "IndexerError"
    assert "a.parquet" in message or "index.uri" in message


def test_an_unforeseen_error_names_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path / "corpus")))
    monkeypatch.setattr(digests, "content_hash", lambda text: text.decode("ascii") + 1)
    reader = Reader(corpus, str(tmp_path / "index"), "docs")
    kind, message, _ = sandbox._answer(reader, corpus.files[0])
    assert kind == "IndexerError"
    assert "internal error while reading" in message
    assert "indexer/corpus/digests.py:" in message
    assert "document 0" not in message


def test_bad_files_have_a_budget(tmp_path: Path) -> None:
    given = given_corpus(tmp_path)
    text(tmp_path / "corpus" / "b.parquet")
    with pytest.raises(RefusedError, match=r"files\) is 0\.3333, allowed 0\.2"):
        run_here(settings(tmp_path))
    with pytest.raises(RefusedError, match=r"run\.max_quarantine is 1, allowed 0"):
        run_here(given.model_copy(update={"run": given.run.model_copy(update={"max_quarantine": 0})}))
    assert run_here(given.model_copy(update={"run": given.run.model_copy(update={"max_quarantine": 1})}))["epoch"] == 1


def test_a_corpus_that_changes_while_it_is_read_is_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = given_corpus(tmp_path)
    real_scan = scan.scan
    left = [tmp_path / "corpus" / "c.parquet"]

    def vanishes_first(*arguments: object) -> object:
        if left:
            left.pop().unlink()
            write(tmp_path / "corpus" / "a.parquet", words(40))
        return real_scan(*arguments)

    monkeypatch.setattr(scan, "scan", vanishes_first)
    summary = run_here(given)
    assert (summary["indexed"], summary["quarantined"]) == (40, 0)
    assert "listing it again" in capsys.readouterr().err


def test_a_file_that_changes_after_it_was_compared_costs_its_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_corpus(tmp_path)
    real_compare = changes.compare

    def grows(*arguments: object) -> object:
        found = real_compare(*arguments)
        write(tmp_path / "corpus" / "c.parquet", [(f"c-{name}", text) for name, text in words(50, seed=1)])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(changes, "compare", grows)
        summary = run_here(given)
    assert (summary["indexed"], summary["quarantined"]) == (30, 30)
    assert {reason for _, reason in quarantine(given)} == {"bad_file"}
    assert run_here(given)["indexed"] == 50, "the next run reads it"
    assert quarantine(given) == []


def test_only_an_object_store_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAUSE_SECONDS", 0.0)
    answers = [BadFile("lost"), None]

    def read() -> str:
        if (error := answers.pop(0)) is not None:
            raise error
        return "read"

    assert files.retry_once("s3://bucket/corpus", read) == "read"
    answers[:] = [BadFile("lost"), None]
    with pytest.raises(BadFile, match="lost"):
        files.retry_once("/corpus", read)


def _digest(root: Path, reader_gb: float = 4.0) -> int:
    corpus = open_corpus(CorpusSettings(uri=str(root / "corpus"), reader_gb=reader_gb))
    with ReaderProcess(Reader(corpus, str(root / "index"), "docs")) as process:
        for file in corpus.files:
            process.digest(file)
    store = ControlStore(str(root / "index"), "docs")
    return sum(store.digests.read(name, ["row"]).num_rows for name in store.digests.names())


def test_a_bomb_ends_its_reader_and_a_large_text_does_not(tmp_path: Path) -> None:
    """100 MB and 400 MB of text in files of some kilobytes."""
    (tmp_path / "corpus").mkdir()
    path = tmp_path / "corpus" / "a.parquet"
    pq.write_table(pa.table({"id": ["large"], "text": ["word " * 20_000_000]}), path, compression="zstd")
    assert _digest(tmp_path) == 1
    pq.write_table(pa.table({"id": ["bomb"], "text": ["word " * 80_000_000]}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BadFile, match=r"a\.parquet"):
        _digest(tmp_path, reader_gb=0.3)


def test_a_reader_outlives_its_process(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path / "corpus")))
    with ReaderProcess(Reader(corpus, str(tmp_path / "index"), "docs")) as process:
        process.digest(corpus.files[0])
        assert process._process is not None
        process._process.kill()
        with pytest.raises(BadFile, match="status -9"):
            process.digest(corpus.files[0])
        process.digest(corpus.files[0])


def test_a_reader_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PATIENCE_SECONDS", 0.5)
    write(tmp_path / "corpus" / "a.parquet", words(5))
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path / "corpus")))
    with ReaderProcess(Reader(corpus, str(tmp_path / "index"), "docs")) as process:
        assert process._process is not None
        process._process.send_signal(signal.SIGSTOP)
        with pytest.raises(BadFile, match=r"a\.parquet.*status -9"):
            process.digest(corpus.files[0])


def test_errors_keep_their_kind(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    lacks_a_column(tmp_path / "corpus" / "b.parquet")
    corpus = open_corpus(CorpusSettings(uri=str(tmp_path / "corpus"), payload=["kind"]))
    with (
        ReaderProcess(Reader(corpus, str(tmp_path / "index"), "docs")) as process,
        pytest.raises(WrongColumns, match="'kind' is missing"),
    ):
        process.digest(corpus.files[1])
