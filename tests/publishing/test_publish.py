"""What the gates refuse leaves the published epoch and the staged work as they are. Real tables, fake engine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.commands.entry import execute
from indexer.errors import RefusedError
from indexer.inference import matryoshka
from indexer.publishing import history, publish
from indexer.search.published import open_published
from indexer.storage import vector_index
from indexer.storage.control import ControlStore
from tests.support.commands import exit_status
from tests.support.fakes import published_rows, published_vectors, quarantine, run_here, settings, words, write

pytestmark = pytest.mark.heavy

Columns = dict[int, Any]

REFUSED = 3
"""Exit status of a run that a gate refuses."""


def longer(vectors: np.ndarray, wide: Sequence[int], precision: Any) -> Columns:
    return {width: matryoshka.fixed_size_list(matryoshka.cut(vectors, width) * 1.01, precision) for width in wide}


def not_finite(vectors: np.ndarray, wide: Sequence[int], precision: Any) -> Columns:
    return {width: matryoshka.fixed_size_list(matryoshka.cut(vectors, width) * np.nan, precision) for width in wide}


def in_another_order(vectors: np.ndarray, wide: Sequence[int], precision: Any) -> Columns:
    turned = np.roll(vectors, 1, axis=0)
    return {width: matryoshka.fixed_size_list(matryoshka.cut(turned, width), precision) for width in wide}


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (longer, r"gates\.norm_tolerance is 0\.01, allowed 0\.001"),
        (not_finite, r"gates\.norm_tolerance is inf"),
        (in_another_order, r"gates\.sampled_cosine is "),
    ],
)
def test_vectors_that_are_not_the_models_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Columns], refusal: str
) -> None:
    given = settings(tmp_path)
    write(tmp_path / "corpus" / "a.parquet", words(60))
    run_here(given)
    before = published_vectors(given, 96)
    write(tmp_path / "corpus" / "a.parquet", words(90))
    with monkeypatch.context() as patch:
        patch.setattr(matryoshka, "columns", fault)
        with pytest.raises(RefusedError, match=refusal):
            run_here(given)
    store = ControlStore(given.index.uri, "docs")
    assert store.receipts(2).ids(), "what is staged is kept"
    after = published_vectors(given, 96)
    assert after.keys() == before.keys()
    assert all((after[name] == before[name]).all() for name in before)
    history.rollback(given.index.uri, store, 1)  # gives up what is staged
    assert run_here(given)["indexed"] == 30
    assert len(published_rows(given, 96)) == 90


def test_a_quarantine_that_is_not_the_staged_one_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tmp_path)
    write(tmp_path / "corpus" / "a.parquet", [*words(30), ("empty", " ")])
    run_here(given)
    before = open_published(given.index.uri, "docs").epoch.quarantine[1]
    write(tmp_path / "corpus" / "a.parquet", [*words(30), ("other", " "), ("none", None)])
    real = publish._commit
    with monkeypatch.context() as patch:
        patch.setattr(publish, "_commit", lambda *how: real(*how) | {"docs_quarantine": before})
        with pytest.raises(RefusedError, match="quarantine_rows_wrong is 3, allowed 0"):
            run_here(given)
    assert quarantine(given) == [("empty", "empty_text")]
    assert run_here(given)["gates"]["quarantine_rows_wrong"] == 0
    assert quarantine(given) == [("none", "null_text"), ("other", "empty_text")]


def test_a_vector_index_that_misses_too_much_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "REFINED", {})  # neighbours by their codes alone
    write(tmp_path / "corpus" / "a.parquet", words(600))
    with pytest.raises(RefusedError, match=r"gates\.recall is 0\.\d+, allowed 1"):
        run_here(settings(tmp_path, index={"vector_index": "IVF_PQ"}, gates={"recall": 1.0}))
    assert ControlStore(str(tmp_path / "index"), "docs").latest_epoch() is None
    lower = settings(tmp_path, index={"vector_index": "IVF_PQ"}, gates={"recall": 0.01})
    run_here(lower)
    published = open_published(lower.index.uri, "docs").epoch
    assert published.number == 1
    assert published.description.run.indexed == 600
    assert 0.01 <= published.description.gates["gates.recall"] < 1


def test_a_vector_index_waits_for_the_rows_that_train_it(tmp_path: Path) -> None:
    given = settings(tmp_path, index={"vector_index": "IVF_PQ", "widths": [96]}, gates={"recall": 0})
    for count, index in ((5, "none"), (256, "IVF_PQ")):
        write(tmp_path / "corpus" / "a.parquet", words(count))
        (table,) = run_here(given)["tables"]
        assert (table["rows"], table["index"]) == (count, index)
        assert run_here(given)["status"] == "unchanged"


def test_a_run_finishes_what_an_untrained_vector_index_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(tmp_path, index={"vector_index": "IVF_PQ", "widths": [96]})
    write(tmp_path / "corpus" / "a.parquet", words(5))
    with monkeypatch.context() as patch:
        patch.setattr(vector_index, "choose_index_type", lambda setting, *_: setting)
        with pytest.raises(RefusedError, match="rows_unindexed is 5, allowed 0"):
            run_here(given)
    (table,) = run_here(given)["tables"]
    assert (table["rows"], table["index"]) == (5, "none")


def test_a_vector_index_of_no_rows_is_trained_when_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = {"max_quarantined": 1, "recall": 0}
    given = settings(tmp_path, index={"vector_index": "IVF_SQ", "widths": [96]}, gates=gates)
    write(tmp_path / "corpus" / "a.parquet", [("empty", " ")])
    with monkeypatch.context() as patch:
        patch.setattr(vector_index, "choose_index_type", lambda setting, *_: setting)
        run_here(given)
    write(tmp_path / "corpus" / "a.parquet", words(5))
    (table,) = run_here(given)["tables"]
    assert (table["rows"], table["index"]) == (5, "IVF_SQ")


def test_a_refusal_ends_with_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(100))
    run_here(settings(tmp_path))
    write(tmp_path / "corpus" / "a.parquet", words(70))
    assert exit_status(lambda: execute(lambda: run_here(settings(tmp_path)))) == REFUSED
    assert "gates.max_removed is 0.3, allowed 0.2" in capsys.readouterr().err.splitlines()[-1]
    assert len(published_rows(settings(tmp_path), 96)) == 100
