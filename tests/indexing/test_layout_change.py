"""Changes of settings one by one: what a plan says of them, what a run does, and what a rollback brings back."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from indexer.indexing import bounds, changes, plan, scan
from indexer.indexing.job import open_job
from indexer.publishing import history
from indexer.search.published import Published, open_published
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from tests.support import fakes
from tests.support.fakes import published_rows, published_vectors, words, write
from tests.support.local_cluster import LocalCluster

pytestmark = pytest.mark.heavy

EVERY = 101
"""BERT's first token, which every text has: an engine that gets any text ends the test's process."""


def settings(root: Path, payload: tuple[str, ...] = ("kind",), **index: Any) -> Settings:
    return fakes.settings(root, corpus={"payload": list(payload)}, index={"payload": "copies", **index})


def without_engine(given: Settings) -> dict[str, Any]:
    summary = fakes.run_here(given, exits_on=EVERY)
    assert (summary["status"], summary["tokens"]) == ("published", 0)
    return summary


def planned_for(given: Settings) -> dict[str, Any]:
    """The plan of a run, without Ray."""
    job, cluster = open_job(given), cast(Any, LocalCluster())
    unread = scan.scan(job, cluster, scan.start_reader(job))
    found = changes.compare(job, cluster, unread)
    return plan._described(job, found, bounds.of_comparison(job, found, len(unread)), None) | {"workers": 1}


def opened(given: Settings) -> Published:
    return open_published(given.index.uri, given.index.name)


def rolled_back(given: Settings, number: int) -> None:
    history.rollback(given.index.uri, ControlStore(given.index.uri, given.index.name), number)


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """An index of 30 documents with 384 and 96 components."""
    write(tmp_path / "corpus" / "a.parquet", words(30))
    fakes.run_here(settings(tmp_path))
    return tmp_path


def test_a_plan_gives_rows_and_bytes_of_tables_written_anew(indexed: Path) -> None:
    given = settings(indexed, widths=[384, 48], precision="float32")
    planned = planned_for(given)
    assert planned["to_embed"] == 0
    assert planned["written_rows"] == {"docs_d384": 0, "docs_d48": 30}
    assert planned["written_bytes"] == {"docs_d384": 0, "docs_d48": 30 * 48 * 4}
    stored = {table.name: table.bytes + table.search_bytes for table in opened(given).epoch.tables}
    assert planned["removed_tables"] == {"docs_d96": stored["docs_d96"]}
    said = plan.in_words(planned)
    assert "writes     docs_d384 0.0 MB, docs_d48 0.0 MB of vectors; rows: docs_d384 0, docs_d48 30\n" in said
    assert "removes    docs_d96 0.0 MB once jobs.publish prune forgets epochs\n" in said
    without_engine(given)
    assert published_rows(given, 48) == sorted((name, 0) for name, _ in words(30))
    assert planned_for(given)["written_rows"] == {"docs_d384": 0, "docs_d48": 0}
    # Other payload values rewrite the rows; one document is embedded.
    write(indexed / "corpus" / "a.parquet", words(31))
    half = settings(indexed, ("kind", "text"), widths=[384, 48], precision="float16")
    planned = planned_for(half)
    assert planned["written_rows"] == {"docs_d384": 31, "docs_d48": 31}
    assert planned["written_bytes"] == {"docs_d384": 31 * 384 * 2, "docs_d48": 31 * 48 * 2}
    assert planned["removed_tables"] == {}
    assert "removes" not in plan.in_words(planned)


def test_the_vector_index_alone_changes_and_comes_back(indexed: Path) -> None:
    plain, flat = settings(indexed), settings(indexed, vector_index="IVF_FLAT")
    before = published_vectors(plain, 96)
    assert [text.split(" (")[0] for text in planned_for(flat)["changes"]] == [
        "index.vector_index of width 384",
        "index.vector_index of width 96",
    ]
    done = without_engine(flat)
    assert {done["maintenance"][name]["vector_index"] for name in ("docs_d384", "docs_d96")} == {"trained"}
    assert [table.index for table in opened(flat).epoch.tables] == ["IVF_FLAT", "IVF_FLAT"]
    assert fakes.run_here(flat)["status"] == "unchanged"
    rolled_back(flat, 1)
    assert [table.index for table in opened(flat).epoch.tables] == ["none", "none"]
    without_engine(flat)
    without_engine(plain)
    assert [table.index for table in opened(plain).epoch.tables] == ["none", "none"]
    after = published_vectors(plain, 96)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_rollback_brings_metric_and_payload_back(indexed: Path) -> None:
    plain, other = settings(indexed), settings(indexed, ("text",), metric="dot")
    without_engine(other)
    found = opened(other)
    assert found.epoch.description.layout.metric == "dot"
    assert "text" in found.table().schema.names
    rolled_back(other, 1)
    found = opened(other)
    layout = found.epoch.description.layout
    assert (layout.metric, list(layout.payload)) == ("cosine", ["kind"])
    assert "text" not in found.table().schema.names
    assert set(found.read(96, ["kind"])["kind"].to_pylist()) == {"page"}
    assert fakes.run_here(plain)["status"] == "unchanged"
    without_engine(other)
    found = opened(other)
    layout = found.epoch.description.layout
    assert (layout.metric, list(layout.payload)) == ("dot", ["text"])
    assert set(found.read(96, ["text"])["text"].to_pylist()) == {text for _, text in words(30)}
