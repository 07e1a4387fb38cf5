"""The whole job on real tables with the fake engine: on real Ray where workers matter, else in this process."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from indexer.errors import CorpusError, RefusedError, SettingsError
from indexer.indexing import plan as indexing_plan
from indexer.indexing import stage
from indexer.inference.tokenizer import INSTRUCTION
from indexer.publishing import publish
from indexer.search import published
from indexer.storage import vector_index
from indexer.storage.control import ControlStore
from tests.support.fakes import (
    POISON,
    WIDTHS,
    poison_token,
    published_rows,
    published_vectors,
    quarantine,
    run,
    run_here,
    settings,
    words,
    write,
)
from tests.support.local_cluster import LocalPool

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def poison() -> int:
    """Token id of the word that no other document has."""
    return poison_token()


def test_every_usable_document_is_in_every_table_once(tmp_path: Path) -> None:
    documents = words(400)
    write(tmp_path / "corpus" / "a.parquet", documents[:300], rows_per_group=37)
    write(tmp_path / "corpus" / "deep" / "b.parquet", [*documents[300:], ("empty", "  "), (None, "x"), ("null", None)])
    given = settings(tmp_path)
    summary = run(given)
    expected = sorted((name, 0) for name, _ in documents)
    assert [published_rows(given, width) for width in WIDTHS] == [expected, expected]
    assert quarantine(given) == [("empty", "empty_text"), ("null", "null_text"), (None, "null_id")]
    assert (summary["epoch"], summary["indexed"], summary["quarantined"], summary["chunks"]) == (1, 400, 3, 400)
    assert summary["quarantine_reasons"] == {"empty_text": 1, "null_id": 1, "null_text": 1}
    assert {(table["name"], table["width"], table["rows"]) for table in summary["tables"]} == {
        ("docs_d384", 384, 400),
        ("docs_d96", 96, 400),
    }


def test_narrow_vectors_are_renormalised_prefixes(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(30))
    given = settings(tmp_path)
    run_here(given)
    wide, narrow = (published_vectors(given, width) for width in WIDTHS)
    for name, vector in wide.items():
        prefix = vector[: WIDTHS[1]]
        np.testing.assert_allclose(narrow[name], prefix / np.linalg.norm(prefix), atol=1e-6)


def test_rerun_does_nothing(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(60))
    given = settings(tmp_path)
    run_here(given)
    before = published.open_published(given.index.uri, "docs").epoch
    summary = run_here(given, nan_on=101)
    assert (summary["epoch"], summary["indexed"], summary["documents"]) == (1, 0, 60)
    assert published.open_published(given.index.uri, "docs").epoch == before


def test_only_changes_are_embedded_and_old_epochs_stay_readable(tmp_path: Path) -> None:
    documents = words(100)
    write(tmp_path / "corpus" / "a.parquet", documents)
    given = settings(tmp_path)
    run_here(given)
    first = published.open_published(given.index.uri, "docs")
    old = published_vectors(given, 96)

    changed = [*documents[5:50], ("doc-00050", "something else"), *documents[51:], ("new", "a new one")]
    write(tmp_path / "corpus" / "a.parquet", changed)
    summary = run_here(given)
    assert [summary[key] for key in ("epoch", "indexed", "new", "changed", "deleted")] == [2, 2, 1, 1, 5]
    new = published_vectors(given, 96)
    assert new.keys() == {name for name, _ in changed}
    kept = old.keys() & new.keys() - {"doc-00050"}
    assert all(np.array_equal(old[name], new[name]) for name in kept)
    assert not np.array_equal(old["doc-00050"], new["doc-00050"])
    assert first.read(96, ["id"]).num_rows == 100


def test_renamed_and_repartitioned_files_embed_nothing(tmp_path: Path) -> None:
    documents = words(80)
    write(tmp_path / "corpus" / "a.parquet", documents)
    given = settings(tmp_path)
    run_here(given)
    (tmp_path / "corpus" / "a.parquet").unlink()
    write(tmp_path / "corpus" / "x.parquet", documents[40:])
    write(tmp_path / "corpus" / "y.parquet", documents[:40])
    summary = run_here(given, nan_on=101)
    assert (summary["epoch"], summary["indexed"]) == (1, 0)


def test_moved_documents_take_their_vectors_along(tmp_path: Path) -> None:
    documents = words(80)
    write(tmp_path / "corpus" / "a.parquet", documents)
    given = settings(tmp_path, gates={"max_removed": 0.0})
    run_here(given)
    old = published_vectors(given, 96)
    write(tmp_path / "corpus" / "a.parquet", [(f"moved-{name}", text) for name, text in documents])
    summary = run_here(given, nan_on=101)
    assert [summary[key] for key in ("epoch", "indexed", "moved", "new", "deleted")] == [2, 0, 80, 0, 0]
    new = published_vectors(given, 96)
    assert new.keys() == {f"moved-{name}" for name in old}
    assert all(np.array_equal(old[name], new[f"moved-{name}"]) for name in old)
    write(tmp_path / "corpus" / "b.parquet", [("one more", "text")])
    assert run_here(given)["unchanged"] == 80


def test_duplicates(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", [("same", "one text"), ("differs", "first"), ("other", "x")])
    write(tmp_path / "corpus" / "b.parquet", [("same", "one text"), ("differs", "second")])
    given = settings(tmp_path, gates={"max_quarantined": 0.5})
    summary = run_here(given)
    assert published_rows(given, 96) == [("other", 0), ("same", 0)]
    assert quarantine(given) == [("differs", "duplicate_id"), ("differs", "duplicate_id")]
    assert summary["duplicates"] == 1


@pytest.mark.parametrize(("fault", "count"), [("exits_on", 8), ("hangs_on", 2)])
def test_a_document_that_kills_or_hangs_the_engine_is_found_and_remembered(
    tmp_path: Path, poison: int, fault: str, count: int
) -> None:
    documents = words(count)
    documents[1] = ("poison", f"{POISON} {POISON}")
    write(tmp_path / "corpus" / "a.parquet", documents)
    given = settings(tmp_path, run={"shard_mb": 1.0, "progress": "none"}, gates={"max_quarantined": 0.5})
    summary = run(given, **{fault: poison})
    assert quarantine(given) == [("poison", "poison")]
    assert published_rows(given, 96) == sorted((name, 0) for name, _ in documents if name != "poison")
    assert 0 < summary["restarts"] <= math.ceil(math.log2(count)) + 2

    write(tmp_path / "corpus" / "b.parquet", [("later", "one more")])
    again = run_here(given, dies_on=poison)
    assert (again["indexed"], again["quarantined"], again["restarts"]) == (1, 1, 0)


def test_shards_that_end_in_another_order_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other result is held back until the end."""
    documents = words(300)
    write(tmp_path / "corpus" / "a.parquet", documents, rows_per_group=25)
    ended: list[str] = []
    in_order = LocalPool.run

    def reordered(*given: Any, **named: Any) -> Iterator[Any]:
        late = []
        for number, outcome in enumerate(in_order(*given, **named)):
            if number % 2:
                late.append(outcome)
            else:
                ended.append(outcome.piece.shard_id)
                yield outcome
        for outcome in reversed(late):
            ended.append(outcome.piece.shard_id)
            yield outcome

    monkeypatch.setattr(LocalPool, "run", reordered)
    given = settings(tmp_path)
    run_here(given)
    assert len(ended) > 4
    expected = sorted((name, 0) for name, _ in documents)
    assert [published_rows(given, width) for width in WIDTHS] == [expected, expected]


def test_shards_of_a_few_long_documents_hold_several(tmp_path: Path) -> None:
    """One of each is embedded once more."""
    write(tmp_path / "corpus" / "a.parquet", [(name, f"{text} " * 500) for name, text in words(64)])
    given = settings(tmp_path, run={"shard_mb": 8.0, "progress": "none"})
    run_here(given)
    store = ControlStore(given.index.uri, "docs")
    assert len(store.receipts(1).ids()) == 4


def test_more_workers_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(300), rows_per_group=25)
    with pytest.raises(SettingsError, match=r"cluster\.workers: .* room for \d+ workers of 1 cores, not for"):
        run(settings(tmp_path, cluster={"workers": 99}, run={"shard_mb": 0.0001}))
    with pytest.raises(SettingsError, match=r"room for 0 workers of 99 cores"):
        run(settings(tmp_path, cluster={"cpus_per_worker": 99}))


def test_vectors_that_are_not_finite_are_quarantined_and_remembered(tmp_path: Path, poison: int) -> None:
    documents = [*words(20), ("bad", POISON)]
    write(tmp_path / "corpus" / "a.parquet", documents)
    given = settings(tmp_path)
    run_here(given, nan_on=poison)
    assert quarantine(given) == [("bad", "bad_vector")]
    write(tmp_path / "corpus" / "b.parquet", [("later", "one more")])
    summary = run_here(given, nan_on=poison)
    assert (summary["indexed"], summary["quarantined"]) == (1, 1)


def test_an_interrupted_run_is_resumed(tmp_path: Path, poison: int, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "corpus" / "a.parquet", [*words(300), ("last", POISON)])
    given = settings(tmp_path, cluster={"workers": 1}, run={"shard_mb": 0.002, "progress": "none"})

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "rows_of_killed_shard", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(given, exits_on=poison)
    staged = len(ControlStore(given.index.uri, "docs").receipts(1).ids())
    assert staged > 0
    summary = run_here(given)
    resumed = summary["resumed_shards"]
    assert 0 < resumed <= staged, "receipts of halves are not of shards"
    assert len(published_rows(given, 96)) == summary["indexed"] == 301
    assert f"resuming epoch 1: {resumed} shards" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["put_epoch", "second_commit", "maintain"])
def test_an_epoch_left_half_way_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    documents = words(50)
    write(tmp_path / "corpus" / "a.parquet", documents)
    given = settings(tmp_path)
    committed = 0
    real_commit = publish.commits.commit

    def fail(*_: object) -> None:
        raise OSError("killed here")

    def fail_at_second(*arguments: object) -> int:
        nonlocal committed
        committed += 1
        return real_commit(*arguments) if committed < 2 else fail()

    with monkeypatch.context() as patch:
        if step == "put_epoch":
            patch.setattr(ControlStore, "put_epoch", fail)
        elif step == "maintain":
            patch.setattr(vector_index, "maintain", fail)
        else:
            patch.setattr(publish.commits, "commit", fail_at_second)
        with pytest.raises(OSError, match="killed here"):
            run_here(given)
    with pytest.raises(SettingsError, match="no epoch"):
        published.open_published(given.index.uri, "docs")
    summary = run_here(given, nan_on=101)
    assert summary["epoch"] == 1
    assert [published_rows(given, width) for width in WIDTHS] == [sorted((name, 0) for name, _ in documents)] * 2


def test_a_changed_model_setting_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(10))
    run_here(settings(tmp_path))
    with pytest.raises(SettingsError, match="max_tokens"):
        run_here(settings(tmp_path, model={"max_tokens": 64}))


def test_removing_too_much_is_refused_and_can_be_allowed(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(100))
    run_here(settings(tmp_path))
    write(tmp_path / "corpus" / "a.parquet", words(70))
    with pytest.raises(RefusedError, match=r"gates\.max_removed is 0\.3"):
        run_here(settings(tmp_path))
    assert len(published_rows(settings(tmp_path), 96)) == 100
    allowed = settings(tmp_path, gates={"max_removed": 0.5})
    assert run_here(allowed)["deleted"] == 30
    assert len(published_rows(allowed, 96)) == 70


def test_emptying_whole_fragments(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(100))
    write(tmp_path / "corpus" / "b.parquet", [("only", "one")])
    given = settings(tmp_path, gates={"max_removed": 1.0})
    run_here(given)
    (tmp_path / "corpus" / "a.parquet").unlink()
    run_here(given)
    assert published_rows(given, 96) == [("only", 0)]


def test_plan_tells_and_does_nothing(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(200))
    given = settings(tmp_path)
    plan = indexing_plan.plan(given)
    assert (plan["files"], plan["documents"], plan["to_embed"], plan["new"]) == (1, 200, 200, 200)
    assert plan["vector_bytes"] == {"docs_d384": 200 * 384 * 4, "docs_d96": 200 * 96 * 4}
    assert plan["table_bytes"] == {}
    assert not [path for path in Path(given.index.uri).rglob("*") if path.is_file()], "nothing is written"
    assert plan["refused"] == []
    assert plan["conventions"] == {
        "modules": "mean",
        "dimension": 384,
        "max_tokens": 128,
        "lower_case": False,
        "query_template": "{query}",
        "query_instruction": INSTRUCTION,
        "document_prompt": "",
    }
    said = indexing_plan.in_words(plan)
    assert "200 new" in said
    assert 'model      mean, 384 dimensions, 128 tokens at most\n           queries as "{query}"\n' in said
    own = {"query_template": "Instruct: {instruction}\nQuery:{query}", "document_prompt": "passage: "}
    said = indexing_plan.in_words(plan | {"conventions": plan["conventions"] | own})
    assert f'queries as "Instruct: {{instruction}}\\nQuery:{{query}}", instruction "{INSTRUCTION}"' in said
    assert 'documents after "passage: "' in said
    assert run_here(given)["tokens"] == pytest.approx(plan["estimated_tokens"], rel=0.02)


def test_unusable_corpora_are_named_before_any_engine(tmp_path: Path) -> None:
    given = settings(tmp_path)
    with pytest.raises(CorpusError, match="no Parquet, Lance"):
        run_here(given)
    write(tmp_path / "corpus" / "a.parquet", words(3))
    table = pq.read_table(tmp_path / "corpus" / "a.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "corpus" / "a.parquet")
    with pytest.raises(CorpusError, match="not a single row"):
        run_here(given)
    (tmp_path / "corpus" / "a.parquet").rename(tmp_path / "corpus" / "b.parquet")
    (tmp_path / "corpus" / "b.parquet").write_text("not Parquet")
    with pytest.raises(CorpusError, match=r"none of 1 files can be used; .*b\.parquet"):
        run_here(given)


def test_a_missing_staged_file_is_never_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(20))
    given = settings(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(publish, "finish", lambda *_: pytest.fail("stop here"))
        with pytest.raises(pytest.fail.Exception):
            run_here(given)
    shutil.rmtree(Path(given.index.uri) / "docs_d96.lance" / "data")
    summary = run_here(given)
    assert (summary["epoch"], summary["indexed"], summary["resumed_shards"]) == (1, 20, 0)
    assert published_rows(given, 96) == published_rows(given, 384) == [(name, 0) for name, _ in words(20)]
