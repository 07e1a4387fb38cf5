"""Many readers beside nights that publish, prune and roll back: no error and no answer of two epochs."""

from pathlib import Path

import pytest

from tests.faults.readers import play


@pytest.mark.parametrize(
    ("seconds", "processes", "threads"),
    [(8, 2, 4), pytest.param(300, 4, 8, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_readers_beside_nights(tmp_path: Path, seconds: float, processes: int, threads: int) -> None:
    counts = play(tmp_path, seconds, processes, threads)
    print(counts)
    assert counts["errors"] == counts["mixed"] == 0
    assert counts["engines"] == processes
    assert min(counts[name] for name in ("answers", "refreshes", "nights", "prunes", "rollbacks", "pruned")) > 0
