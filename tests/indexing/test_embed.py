"""What a shard asks of its engine."""

from pathlib import Path

import numpy as np
import pytest

from indexer.inference.sequences import TokenSequences
from indexer.testing.fakes import FakeEngine
from tests.support.fakes import published_rows, run_here, settings, words, write


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences of each call of an engine."""
    found: list[int] = []
    embed = FakeEngine.embed

    def noted(engine: FakeEngine, sequences: TokenSequences) -> np.ndarray:
        found.append(len(sequences))
        return embed(engine, sequences)

    monkeypatch.setattr(FakeEngine, "embed", noted)
    return found


def test_a_shard_of_few_rows_from_many_files_is_one_call(tmp_path: Path, calls: list[int]) -> None:
    given = settings(tmp_path)
    files = {number: [(f"{number}-{name}", text) for name, text in words(9, number)] for number in range(6)}
    for number, rows in files.items():
        write(tmp_path / "corpus" / f"{number}.parquet", rows)
    assert run_here(given)["indexed"] == 54
    for number, rows in files.items():
        write(tmp_path / "corpus" / f"{number}.parquet", [(rows[0][0], f"another text {number}"), *rows[1:]])
    calls.clear()
    assert run_here(given)["changed"] == 6
    assert calls[-2:] == [6, 1], "all chosen rows, then a sampled one alone"
    assert len(published_rows(given, given.index.widths[0])) == 54
