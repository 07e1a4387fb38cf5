"""Object stores that do not keep what is put once."""

from typing import Any

import pytest

from indexer.errors import IndexerError
from indexer.storage import remote
from indexer.storage.put_once import PutOnceFolder


def test_a_store_that_ignores_conditions_is_refused_before_the_first_write(monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = remote.obstore.put, []

    def unconditional(store: Any, path: str, content: bytes, **_: Any) -> Any:
        written.append(path)
        return real(store, path, content)

    folder = PutOnceFolder("memory:///ignoring", "_docs", "index.uri")
    with monkeypatch.context() as patch:
        patch.setattr(remote.obstore, "put", unconditional)
        with pytest.raises(IndexerError, match="ignores If-None-Match"):
            folder.put("epochs/000000000001.json", b"1")
    assert all("_probe" in path for path in written)
    assert folder.sizes() == {}
    assert folder.put("epochs/000000000001.json", b"1")
    assert not folder.put("epochs/000000000001.json", b"2")
