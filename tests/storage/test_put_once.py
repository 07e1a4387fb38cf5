"""Errors of the control files' folder."""

import pytest

from indexer.errors import IndexerError
from indexer.storage.put_once import PutOnceFolder


def test_a_server_on_plain_http_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENDPOINT": "http://127.0.0.1:9", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    with pytest.raises(IndexerError, match="AWS_ALLOW_HTTP=true"):
        PutOnceFolder("s3://bucket/index", "_docs", "index.uri").stems("epochs")
