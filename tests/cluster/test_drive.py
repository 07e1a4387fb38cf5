"""Pieces on a pool whose workers come and go: what the operator is shown."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from indexer import progress
from indexer.cluster.drive import Work, drive
from indexer.cluster.leases import Done


class Growing:
    """A pool that begins with one worker, then has four, then two."""

    size = ready = 1
    restarts = 0

    def run(self, pieces: Any, retries: int, most_restarts: int) -> Iterator[Done[Any, Any]]:  # noqa: ARG002
        for piece, ready in zip(pieces, (1, 4, 2), strict=True):
            self.ready = ready
            yield Done(piece, SimpleNamespace(tokens=10), 0.0, "here")


def test_progress_counts_the_workers_that_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    pool: Any = Growing()
    pieces: Any = [SimpleNamespace(size=2, shard_id=str(at)) for at in range(3)]
    drive(pool, Work(pieces, 6, "documents", retries=0, most_restarts=0), "lines", lambda _: None, lambda _: None)
    shown = [re.findall(r"(\d+) workers", line) for line in capsys.readouterr().err.splitlines()]
    assert shown == [["1"], ["4"], ["2"], ["2"]]
