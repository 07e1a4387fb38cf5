"""Nights on an object store: moto's server, plain and behind a proxy that refuses, drops and loses replies."""

import http.client
import os
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
import pytest

from indexer.corpus import object_store
from indexer.publishing import history
from indexer.search import published
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from tests.support import fakes, stores
from tests.support.fakes import published_rows, words, write

FAULTS = ("refused", "dropped", "reply_lost")


class Proxy(ThreadingHTTPServer):
    """Passes requests on, some of them badly."""

    daemon_threads = True

    def __init__(self, target: int, share: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.share = share
        self.random = random.Random(seed)
        self.faults = dict.fromkeys(FAULTS, 0)

    def draw(self) -> str | None:
        if self.random.random() >= self.share:
            return None
        fault = self.random.choice(FAULTS)
        self.faults[fault] += 1
        return fault

    def handle_error(self, *_: object) -> None:
        """Clients drop connections too."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.draw()
        if fault == "refused":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault != "dropped":
            target = http.client.HTTPConnection("127.0.0.1", self.server.target)
            target.request(self.command, self.path, body, dict(self.headers))
            answer = target.getresponse()
            content = answer.read()
            target.close()
        if fault is not None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815  # names of http.server


@pytest.fixture
def bucket() -> Iterator[int]:
    """Port of a store with an empty bucket."""
    with stores.s3():
        yield int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])


def _point_at(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    object_store._remote.cache_clear()  # it keeps its connections


def _settings(root: Path) -> Settings:
    corpus = {"uri": "s3://bucket/corpus"}
    return fakes.settings(root, corpus=corpus, index={"uri": "s3://bucket/index"}, gates={"max_removed": 1.0})


def _upload(root: Path, rows: list[tuple[str, str]]) -> None:
    """Writes the corpus's only file."""
    write(root / "a.parquet", rows)
    obstore.put(obstore.store.from_url("s3://bucket"), "corpus/a.parquet", root / "a.parquet")


@pytest.mark.usefixtures("bucket")
def test_nights_on_an_object_store(tmp_path: Path) -> None:
    given = _settings(tmp_path)
    _upload(tmp_path, words(60))
    assert fakes.run_here(given)["epoch"] == 1
    _upload(tmp_path, [*words(10, seed=1), *words(60)[12:]])
    second = fakes.run_here(given)
    assert [second[name] for name in ("epoch", "indexed", "deleted")] == [2, 10, 2]
    assert fakes.run_here(given)["indexed"] == 0
    assert len(published_rows(given, 96)) == 58
    store = ControlStore(given.index.uri, "docs")
    history.rollback(given.index.uri, store, 1)
    assert len(published_rows(given, 96)) == 60
    pruned = history.prune(given.index.uri, store, keep=1)
    assert (pruned.epochs, pruned.versions > 0, pruned.bytes > 0) == ([1, 2], True, True)
    assert len(published_rows(given, 96)) == 60


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_hundred_faults_lose_and_double_nothing(
    bucket: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(bucket, share=0.15, seed=0)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    given = _settings(tmp_path)
    night = 0
    while sum(proxy.faults.values()) < 500:
        night += 1
        rows = [*words(10, seed=night), *words(40 + night)[10 + night % 5 :]]
        _upload(tmp_path, rows)
        _point_at(monkeypatch, proxy.server_port)
        summary = fakes.run_here(given)
        _point_at(monkeypatch, bucket)
        expected = sorted((name, 0) for name, _ in rows)
        assert [published_rows(given, width) for width in fakes.WIDTHS] == [expected, expected]
        assert published.open_published(given.index.uri, "docs").epoch.number == summary["epoch"] == night
    proxy.shutdown()
    print(f"{night} nights, faults {proxy.faults}")
    assert min(proxy.faults.values()) > 50
