"""Recall is measured again when enough of a table or its index differs, on full checks and where no epoch tells it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.settings import Settings
from indexer.storage import exact_neighbours, vector_index
from indexer.storage.control import ControlStore
from tests.support.fakes import run_here, settings, words, write

pytestmark = pytest.mark.heavy

ROWS = words(200)

Measured = Callable[[], bool]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Whether a table was searched exactly since the last call."""
    calls = []
    real = exact_neighbours.nearest

    def counted(*how: Any) -> Any:
        calls.append(how)
        return real(*how)

    def asked() -> bool:
        found = bool(calls)
        calls.clear()
        return found

    monkeypatch.setattr(exact_neighbours, "nearest", counted)
    return asked


def given(root: Path, parallel_rows: int = 1_000_000, **sections: dict[str, Any]) -> Settings:
    index = {"uri": str(root / "index"), "widths": [32], "vector_index": "IVF_FLAT", "parallel_rows": parallel_rows}
    return settings(root, **sections | {"index": index | sections.get("index", {})})


def night(root: Path, rows: int, asked: Settings, first: int = 0) -> dict[str, Any]:
    """A run on so many documents; returns what the summary says of the table."""
    write(root / "corpus" / "a.parquet", ROWS[first:rows])
    (table,) = run_here(asked)["tables"]
    return dict(table)


@pytest.mark.parametrize("parallel_rows", [1_000_000, 50])
def test_a_measurement_holds_until_a_tenth_of_the_rows_differ(
    tmp_path: Path, measured: Measured, parallel_rows: int
) -> None:
    asked = given(tmp_path, parallel_rows)
    assert night(tmp_path, 100, asked)["recall_epoch"] == 1
    assert measured()
    table = night(tmp_path, 106, asked)
    assert (table["recall_epoch"], table["recall"]) == (1, 1.0)
    assert not measured()
    # Ten rows differ from those that were measured: eight are new, two are gone.
    assert night(tmp_path, 108, asked, first=2)["recall_epoch"] == 1
    assert not measured()
    assert night(tmp_path, 109, asked, first=2)["recall_epoch"] == 4
    assert measured()
    before, after = (ControlStore(asked.index.uri, "docs").epoch(number).tables[0] for number in (3, 4))
    assert before.probes == after.probes == 1
    assert after.recall is not None
    assert (after.recall.rows, after.recall.queries, after.recall.wanted) == (107, 100, 0.95)


def test_full_checks_and_other_bounds_measure(tmp_path: Path, measured: Measured) -> None:
    night(tmp_path, 100, given(tmp_path))
    assert measured()
    assert night(tmp_path, 101, given(tmp_path, gates={"recall_queries": 50}))["recall_epoch"] == 2
    assert measured()
    more = {"recall_queries": 50, "recall": 0.97}
    assert night(tmp_path, 102, given(tmp_path, gates=more))["recall_epoch"] == 3
    assert measured()
    assert night(tmp_path, 103, given(tmp_path, gates=more))["recall_epoch"] == 3
    assert not measured()
    assert night(tmp_path, 104, given(tmp_path, gates=more, run={"full_check_every": 1}))["recall_epoch"] == 5
    assert measured()


def test_an_epoch_of_a_version_that_recorded_no_recall_is_followed_by_a_measurement(
    tmp_path: Path, measured: Measured
) -> None:
    asked = given(tmp_path)
    night(tmp_path, 100, asked)
    (epoch,) = (tmp_path / "index" / "_docs" / "epochs").iterdir()
    told = json.loads(epoch.read_text())
    del told["tables"][0]["recall"]
    epoch.write_text(json.dumps(told))
    assert measured()
    assert night(tmp_path, 101, asked)["recall_epoch"] == 2
    assert measured()


def test_an_index_that_a_killed_run_trained_is_measured(
    tmp_path: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(tmp_path, 100, given(tmp_path))
    other = given(tmp_path, index={"vector_index": "IVF_SQ"})

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vector_index, "measure", dies)
        with pytest.raises(KeyboardInterrupt):
            night(tmp_path, 101, other)
    assert measured()
    table = night(tmp_path, 101, other)
    assert (table["index"], table["recall_epoch"]) == ("IVF_SQ", 2)
    maintained = ControlStore(other.index.uri, "docs").epoch(2).description.maintenance["docs_d32"]
    assert maintained.vector_index == "extended", "what the killed run did is not known"
    assert measured()
