"""Nights of a late-interaction model: token vectors through the same stages, gates, epochs and reuse."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from indexer import schema
from indexer.adapting import plan as adapting_plan
from indexer.adapting_settings import AdaptSettings
from indexer.errors import IndexerError, RefusedError, SettingsError
from indexer.evaluation import run as evaluation_run
from indexer.indexing import bounds, changes, plan, relayout, scan, tune
from indexer.indexing.job import open_job
from indexer.publishing import gates, history
from indexer.settings import EvaluateSettings, Settings
from indexer.storage import tables, vector_columns
from indexer.storage.control import ControlStore
from tests.support import fakes
from tests.support.fakes import POISON, poison_token, quarantine, words, write
from tests.support.local_cluster import LocalCluster
from tests.support.token_vectors import expected, opened, settings, stored

pytestmark = pytest.mark.heavy

EVERY = 101
"""BERT's first token, which every text has: an engine that gets any text ends the test's process."""


def assert_equal(found: Mapping[Any, np.ndarray], wanted: Mapping[Any, np.ndarray], atol: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for key, vectors in wanted.items():
        np.testing.assert_allclose(found[key], vectors, atol=atol)


def without_engine(given: Settings) -> dict[str, Any]:
    summary = fakes.run_here(given, exits_on=EVERY)
    assert (summary["status"], summary["tokens"]) == ("published", 0)
    return summary


def test_a_night_replaces_what_changed_and_a_rollback_brings_it_back(tmp_path: Path) -> None:
    texts = dict(words(40)) | {"marks": "Well, well; (no)!", "only": "!?"}
    write(tmp_path / "corpus" / "a.parquet", list(texts.items()))
    given = settings(tmp_path)
    summary = fakes.run_here(given)
    assert [(table["name"], table["width"], table["rows"]) for table in summary["tables"]] == [("docs_tokens", 32, 42)]
    first, before = stored(given), opened(given)
    assert_equal(first, expected(given, texts))
    assert (len(first["marks", 0]), len(first["only", 0])) == (6, 3)
    assert opened(given).schema().field("vector").type == pa.list_(pa.list_(pa.float32(), 32))

    changed = texts | {"doc-00007": "another text of more words than it had", "new": "a new one"}
    del changed["doc-00000"]
    write(tmp_path / "corpus" / "a.parquet", list(changed.items()))
    summary = fakes.run_here(given)
    assert [summary[key] for key in ("epoch", "indexed", "new", "changed", "deleted")] == [2, 2, 1, 1, 1]
    assert summary["gates"]["gates.published_cosine"] > 0.9999
    assert_equal(stored(given), expected(given, changed))
    assert before.read().num_rows == 42

    store = ControlStore(given.index.uri, "docs")
    history.rollback(given.index.uri, store, 1)
    assert_equal(stored(given), first)
    assert history.prune(given.index.uri, store, keep=1).epochs
    assert_equal(stored(given), first)


def test_vectors_are_reused_rounded_and_moved_without_an_engine(tmp_path: Path) -> None:
    texts = dict(words(30))
    write(tmp_path / "corpus" / "a.parquet", list(texts.items()))
    fakes.run_here(settings(tmp_path))
    wanted = expected(settings(tmp_path), texts)

    (table,) = opened(settings(tmp_path)).epoch.tables
    shortest = min(map(len, wanted.values()))
    assert relayout._vector_bytes(opened(settings(tmp_path)).epoch, table) >= shortest * 32 * 4, "pieces stay small"
    filtered = settings(tmp_path, index={"uri": str(tmp_path / "index"), "filters": ["kind"], "payload": "once"})
    without_engine(filtered)
    assert_equal(stored(filtered), wanted)
    half = settings(tmp_path, index={"uri": str(tmp_path / "index"), "precision": "float16"})
    without_engine(half)
    assert_equal(stored(half), wanted, atol=1e-3)
    assert opened(half).schema().field("vector").type.value_type == pa.list_(pa.float16(), 32)
    renamed = [(f"other-{name}", text) for name, text in texts.items()][:15] + list(texts.items())[15:]
    write(tmp_path / "corpus" / "a.parquet", renamed)
    assert without_engine(half)["moved"] == 15
    assert_equal(stored(half), expected(half, dict(renamed)), atol=1e-3)


def test_a_long_document_has_rows_of_chunks_and_embeds_its_end_alone(tmp_path: Path) -> None:
    given = settings(tmp_path, model={"name": settings(tmp_path).model.name, "overflow": "chunk", "chunk_overlap": 8})
    text = " ".join(f"Sentence {row} speaks of {row * 7919 % 1000} things." for row in range(60))
    write(tmp_path / "corpus" / "a.parquet", [("long", text), *words(5)])
    fakes.run_here(given)
    before = stored(given)
    assert len(before) > 15
    write(tmp_path / "corpus" / "a.parquet", [("long", f"{text} One more."), *words(5)])
    grown = fakes.run_here(given)
    assert (grown["changed"], 0 < grown["tokens"] <= 2 * 48) == (1, True)
    found = stored(given)
    assert grown["chunks"] == len(found) - 5
    fresh = given.model_copy(update={"index": given.index.model_copy(update={"name": "fresh"})})
    fakes.run_here(fresh)
    assert_equal(found, stored(fresh))


def test_bad_rows_go_to_the_quarantine_and_another_engine_is_refused(tmp_path: Path) -> None:
    documents = [*words(20), ("bad", f"a {POISON} here"), ("empty", " "), (None, "x")]
    write(tmp_path / "corpus" / "a.parquet", documents)
    given = settings(tmp_path)
    fakes.run_here(given, nan_on=poison_token())
    assert quarantine(given) == [("bad", "bad_vector"), ("empty", "empty_text"), (None, "null_id")]
    assert_equal(stored(given), expected(given, dict(words(20))))
    write(tmp_path / "corpus" / "b.parquet", [("later", "one more")])
    with pytest.raises(RefusedError, match=r"gates\.published_cosine is 0\.9\d+, allowed 0\.9990, worst of \d+ doc"):
        fakes.run_here(given, turned_to=0.9)
    assert opened(given).epoch.number == 1


def test_a_staged_row_without_a_usable_vector_is_refused(tmp_path: Path) -> None:
    layout = open_job_layout(tmp_path)
    unit = np.eye(32, dtype=np.float32)

    def norm_error(vectors: np.ndarray, counts: list[int]) -> float:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 32)
        column = vector_columns.grouped(flat, np.array(counts))
        table = pa.table({schema.VECTOR: column}, schema=pa.schema([layout.schema(32).field(schema.VECTOR)]))
        return gates._norm_error(str(tmp_path), "t", tables.stage(str(tmp_path), "t", table))

    assert norm_error(unit[:5], [2, 3]) == 0
    assert norm_error(unit[:5] * np.array([[1], [1], [1.5], [1], [1]], np.float32), [2, 3]) == pytest.approx(0.5)
    assert norm_error(unit[:5], [5, 0]) == np.inf


def open_job_layout(root: Path) -> schema.Layout:
    write(root / "corpus" / "a.parquet", words(1))
    return open_job(settings(root)).layout


def test_a_plan_gives_the_bytes_of_token_vectors(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(30))
    given = settings(tmp_path)
    job, cluster = open_job(given), cast(Any, LocalCluster())
    unread = scan.scan(job, cluster, scan.start_reader(job))
    found = changes.compare(job, cluster, unread)
    planned = plan._described(job, found, bounds.of_comparison(job, found, len(unread)), None)
    fakes.run_here(given)
    wanted = sum(vectors.nbytes for vectors in stored(given).values())
    assert planned["vector_bytes"] == planned["written_bytes"] == {"docs_tokens": pytest.approx(wanted, rel=0.1)}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("index", {"widths": [256]}, r"index\.widths: .* of 32 components and not of widths; leave it out"),
        ("index", {"vector_index": "IVF_PQ"}, r"index\.vector_index: .* searched without an index; set it to none"),
        ("index", {"metric": "dot"}, r"index\.metric: .* compared by cosine; leave it out"),
        ("engine", {"packed": "on"}, r"engine\.packed is on: .* set it to auto"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(
    tmp_path: Path, section: str, values: dict[str, Any], message: str
) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(1))
    base = {"uri": str(tmp_path / "index")} if section == "index" else {}
    with pytest.raises(SettingsError, match=message):
        open_job(settings(tmp_path, **{section: base | values}))
    assert not (tmp_path / "index").exists()


def test_another_kind_of_model_needs_a_rebuild(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(10))
    dense = fakes.settings(tmp_path)
    fakes.run_here(dense)
    given = settings(tmp_path, index={"uri": str(tmp_path / "index"), "payload": "once"})
    with pytest.raises(SettingsError, match=r"model: late_interaction .* never mixed: restore the settings"):
        fakes.run_here(given)
    summary = fakes.run(given, cluster=LocalCluster(), rebuild=True)
    assert [table["name"] for table in summary["tables"]] == ["docs_g2_tokens"]
    assert_equal(stored(given), expected(given, dict(words(10))))
    with pytest.raises(SettingsError, match="never mixed"):
        fakes.run_here(dense)
    assert fakes.run(dense, cluster=LocalCluster(), rebuild=True)["epoch"] == 3


def test_jobs_that_need_one_vector_of_a_row_refuse_the_index(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(10))
    given = settings(tmp_path, corpus={"uri": str(tmp_path / "corpus"), "payload": ["text"]})
    fakes.run_here(given)
    index, output = {"uri": given.index.uri}, {"uri": str(tmp_path / "out")}
    refused = r"cannot use this index: its model .* gives a vector of every token"
    with pytest.raises(SettingsError, match=f"jobs.evaluate {refused}"):
        evaluation_run.run(EvaluateSettings(index=index, output=output, known_items={"query": "text"}))
    with pytest.raises(SettingsError, match=f"jobs.adapt {refused}"):
        adapting_plan.plan(AdaptSettings(index=index, output=output, titles={"query": "text"}))
    with pytest.raises(SettingsError, match="--tune times engines with a vector of each text"):
        tune.tune(given, tmp_path / "engine.toml")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_die_and_a_run_that_is_interrupted_lose_nothing(tmp_path: Path) -> None:
    texts = dict(words(120)) | {"last": POISON}
    write(tmp_path / "corpus" / "a.parquet", list(texts.items()))
    given = settings(tmp_path, cluster={"workers": 1}, run={"shard_mb": 0.001, "progress": "none", "max_restarts": 1})
    with pytest.raises(IndexerError, match=r"2 workers died, run\.max_restarts allows 1"):
        fakes.run(given, exits_on=poison_token())
    staged = len(ControlStore(given.index.uri, "docs").receipts(1).ids())
    assert staged > 0
    summary = fakes.run(settings(tmp_path, cluster={"workers": 1}), exits_on=poison_token())
    assert 0 < summary["resumed_shards"] <= staged
    assert (summary["indexed"], summary["restarts"] > 0) == (120, True)
    assert quarantine(given) == [("last", "poison")]
    del texts["last"]
    assert_equal(stored(given), expected(given, texts))
