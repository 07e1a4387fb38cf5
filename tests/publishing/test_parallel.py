"""Large tables are compacted and indexed in parts, which find what one process would find, and lose nothing."""

import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from indexer import schema
from indexer.cluster.connection import Cluster
from indexer.errors import IndexerError
from indexer.inference import matryoshka
from indexer.publishing import parallel
from indexer.publishing.upkeep import BuiltParts
from indexer.schema import Layout
from indexer.search.published import open_published
from indexer.settings import ClusterSettings, GateSettings, TextSettings
from indexer.storage import (
    commits,
    compaction,
    exact_neighbours,
    index_parts,
    lookups,
    tables,
    text_index,
    vector_index,
)
from indexer.storage.commits import Change
from indexer.storage.description import TextRecord
from indexer.storage.search_indices import SearchIndices
from tests.support import fakes

pytestmark = pytest.mark.heavy

PAYLOAD = pa.schema([("text", pa.string()), ("language", pa.string()), ("year", pa.int32())])

LAYOUT = Layout("docs", 1, (32,), "float32", "cosine", PAYLOAD)

NAME = LAYOUT.table(32)

TEXT = TextRecord(columns=["text"], **TextSettings().model_dump())

WANTED = SearchIndices(TEXT, ("language", "year"), contents=True)

ROWS = 2_000

GATES = GateSettings()


def rows(start: int, stop: int) -> pa.Table:
    """Documents of twelve words and of vectors around centres, the same for the same number."""
    drawn = [np.random.default_rng(row) for row in range(start, stop)]
    centres = np.random.default_rng(0).standard_normal((20, 32), np.float32)
    vectors = np.stack([centres[row % 20] + 0.5 * drawn[row - start].standard_normal(32) for row in range(start, stop)])
    columns = {
        schema.ID: [f"{row:05d}" for row in range(start, stop)],
        **dict.fromkeys((schema.CHUNK, schema.CHAR_START, schema.CHAR_END), pa.array([0] * (stop - start), pa.int32())),
        schema.CONTENT_HASH: pa.array(
            [row.to_bytes(16, "big") for row in range(start, stop)], schema.CONTENT_HASH_TYPE
        ),
        schema.PAYLOAD_HASH: pa.array([bytes(8)] * (stop - start), schema.PAYLOAD_HASH_TYPE),
        schema.VECTOR: matryoshka.fixed_size_list(matryoshka.cut(vectors.astype(np.float32), 32), "float32"),
        "text": [" ".join(f"word{word}" for word in given.integers(0, 300, 12)) for given in drawn],
        "language": [("de", "en", "fr")[row % 3] for row in range(start, stop)],
        "year": pa.array([row % 1_500 for row in range(start, stop)], pa.int32()),
    }
    return pa.table([columns[name] for name in LAYOUT.schema(32).names], schema=LAYOUT.schema(32))


def staged(uri: Path, count: int = ROWS, fragments: int = 20) -> str:
    """A table of so many rows in so many staged fragments."""
    tables.create_missing(str(uri), LAYOUT.schemas(), "docs")
    size = count // fragments
    added = [part for at in range(0, count, size) for part in tables.stage(str(uri), NAME, rows(at, at + size))]
    commits.commit(str(uri), NAME, Change(1, "1", 1, added, pa.chunked_array([], pa.string()), {}, "docs"))
    return str(uri)


Filled = Callable[[Path], str]
"""Gives a table of :data:`ROWS` rows in 20 fragments at a place of its own."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Copies of a table that is staged once."""
    first = staged(tmp_path_factory.mktemp("tables") / "first")
    return lambda uri: str(shutil.copytree(first, uri))


@pytest.fixture(autouse=True)
def _small_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROWS_PER_FRAGMENT", ROWS // 4)


def here(function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    return starmap(function, items)


def built(uri: str, kind: str = "IVF_SQ", each: parallel.Each = here, trained_rows: int | None = None) -> BuiltParts:
    return parallel.build_parts(uri, NAME, kind, "cosine", trained_rows, WANTED, each)


def opened(uri: str) -> lance.LanceDataset:
    return lance.dataset(tables.table_path(uri, NAME))


def contents(uri: str) -> pa.Table:
    return opened(uri).to_table().sort_by(schema.ID)


def test_compaction_in_tasks_leaves_the_same_rows_in_as_many_fragments_as_in_one_process(
    tmp_path: Path, filled: Filled
) -> None:
    one, parts = filled(tmp_path / "one"), filled(tmp_path / "parts")
    compaction.compact(opened(one))
    assert len(compaction.plan(parts, NAME)[1]) > 1, "one task would show nothing"
    before = opened(parts).version
    assert parallel._compact(parts, NAME, here) == 20
    assert len(opened(parts).get_fragments()) == len(opened(one).get_fragments()) == 4
    assert contents(parts).equals(contents(one))
    assert opened(parts).read_transaction(opened(parts).version).operation.__class__.__name__ == "Rewrite"
    assert opened(parts).version - before == 2, "ids are reserved, then one commit replaces the fragments"


@pytest.mark.parametrize("kind", vector_index.INDEX_CONFIGS)
def test_an_index_of_parts_finds_what_that_of_one_process_finds(tmp_path: Path, filled: Filled, kind: str) -> None:
    one, parts = filled(tmp_path / "one"), filled(tmp_path / "parts")
    assert vector_index.maintain(one, NAME, kind, "cosine", wanted=WANTED).vector_index == "trained"
    assert built(parts, kind) == BuiltParts(compacted=20, trained_rows=ROWS)
    described = {found.name: found for found in opened(parts).describe_indices()}
    joined = {"id_idx", "content_hash_idx", "year_filter"}
    segments = {name: 1 if name in joined else 4 for name in described}
    assert {name: len(found.segments) for name, found in described.items()} == segments
    before = opened(parts).version
    assert vector_index.maintain(parts, NAME, kind, "cosine", ROWS, WANTED).vector_index == "extended"
    assert opened(parts).version == before, "nothing was left to do"
    alone, together = (vector_index.measure(uri, NAME) for uri in (one, parts))
    assert (together.index, together.unindexed, together.rows) == (kind, 0, ROWS)
    assert (together.text, together.filters) == (alone.text, alone.filters)
    assert together.filters == {"language": "BITMAP", "year": "BTREE"}
    shares = [
        vector_index.measure_recall(uri, NAME, found.version, "cosine", 100, 0.95).share
        for uri, found in ((one, alone), (parts, together))
    ]
    assert min(shares) >= 0.95
    assert searched(parts) == searched(one)


def searched(uri: str) -> list[Any]:
    """What look-ups, filters and full-text search give."""
    dataset = opened(uri)
    words = [
        [
            (row["id"], round(row["_score"], 4))
            for row in text_index.search(dataset, query, ["text"], 10, None, ["id", "chunk"])
        ]
        for query in ("word3 word7", "word11", "word120 word200 word250")
    ]
    ids = lookups.lookup(uri, NAME, dataset.version, ["00007", "01999"], ["id"])["id"].to_pylist()
    same = lookups.lookup_contents(uri, NAME, dataset.version, [(5).to_bytes(16, "big")], ["id"])["id"].to_pylist()
    where = dataset.scanner(columns=["id"], filter="language = 'de' AND year < 20").to_table()["id"].to_pylist()
    return [words, sorted(ids), same, sorted(where)]


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_parts_are_trained_for_the_metric(tmp_path: Path, filled: Filled, metric: str) -> None:
    uri = filled(tmp_path / "parts")
    parallel.build_parts(uri, NAME, "IVF_PQ", metric, None, SearchIndices(), here)
    assert not vector_index.must_train(opened(uri), "IVF_PQ", metric, ROWS)
    assert vector_index.must_train(opened(uri), "IVF_PQ", "cosine", ROWS)
    found = vector_index.measure_recall(uri, NAME, opened(uri).version, metric, 100, 0.95)
    assert found.share >= 0.95


def test_partitions_are_as_many_as_in_one_process(tmp_path: Path) -> None:
    counts, first = [], staged(tmp_path / "first", 10_000, 4)
    for kind in ("IVF_FLAT", "IVF_SQ"):
        one = str(shutil.copytree(first, tmp_path / f"one-{kind}"))
        vector_index.create_vector_index(one, NAME, kind, "cosine")
        counts.append(vector_index._partitions(opened(one)))
        parts = str(shutil.copytree(first, tmp_path / f"parts-{kind}"))
        built(parts, kind)
        counts.append(vector_index._partitions(opened(parts)))
    assert counts == [2, 2, 1, 1]


def test_exact_search_in_parts_is_that_of_one_pass(tmp_path: Path, filled: Filled) -> None:
    uri = filled(tmp_path / "parts")
    version = opened(uri).version
    drawn = exact_neighbours.draw(uri, NAME, version, 50)
    whole = exact_neighbours.nearest(uri, NAME, version, drawn)
    ranges = index_parts.fragment_ranges(uri, NAME, version, 7)
    assert sorted(number for found in ranges for number in found) == list(range(1, 21))
    found = [exact_neighbours.nearest(uri, NAME, version, drawn, fragments) for fragments in ranges]
    np.testing.assert_allclose(exact_neighbours.merged(found), whole, atol=1e-6)
    vectors = tables.to_matrix(opened(uri).to_table()[schema.VECTOR])
    np.testing.assert_allclose(whole, -np.sort(-(drawn @ vectors.T), axis=1)[:, :10], atol=1e-6)
    built(uri)
    version = opened(uri).version
    recall = parallel.measure_recall(uri, NAME, version, "cosine", GATES, here)
    assert recall.share >= GATES.recall


def test_an_index_of_parts_is_replaced_when_it_is_another_or_outgrown(tmp_path: Path, filled: Filled) -> None:
    uri = filled(tmp_path / "parts")
    built(uri)
    assert built(uri, trained_rows=ROWS).trained_rows is None, "nothing to do"
    assert built(uri, "IVF_FLAT", trained_rows=ROWS).trained_rows == ROWS
    assert vector_index.measure(uri, NAME).index == "IVF_FLAT"
    assert built(uri, "IVF_FLAT", trained_rows=ROWS // 2).trained_rows == ROWS
    assert vector_index.measure(uri, NAME).unindexed == 0


def test_nights_extend_an_index_of_parts(tmp_path: Path, filled: Filled) -> None:
    uri = filled(tmp_path / "parts")
    built(uri)
    base = opened(uri).version
    dropped = pa.chunked_array([[f"{row:05d}" for row in range(0, ROWS, 50)]])
    added = tables.stage(uri, NAME, rows(ROWS, ROWS + 100))
    commits.commit(uri, NAME, Change(2, "2", base, added, dropped, {}, "docs"))
    assert built(uri, trained_rows=ROWS).trained_rows is None
    vector_index.maintain(uri, NAME, "IVF_SQ", "cosine", ROWS, WANTED)
    found = vector_index.measure(uri, NAME)
    assert (found.unindexed, found.rows) == (0, ROWS + 100 - ROWS // 50)
    assert vector_index.measure_recall(uri, NAME, found.version, "cosine", 200, 0.99).share >= 0.99


def test_a_build_that_fails_changes_nothing_and_one_process_does_the_rest(
    tmp_path: Path, filled: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = filled(tmp_path / "parts")

    def dies(function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if function is index_parts.build and number == 9:
                raise IndexerError("the process of a task died: out of memory")
            yield function(*item)

    assert built(uri, each=dies).trained_rows is None
    assert "out of memory; one process does what is left" in capsys.readouterr().err
    assert len(opened(uri).describe_indices()) == 2, "those of which all parts were there"
    assert opened(uri).count_rows() == ROWS
    assert vector_index.maintain(uri, NAME, "IVF_SQ", "cosine", None, WANTED).vector_index == "trained"
    assert vector_index.measure(uri, NAME).unindexed == 0
    assert len(opened(uri).describe_indices()) == 6


@pytest.mark.parametrize("when", [compaction.rewrite, index_parts.build])
def test_rows_that_somebody_else_writes_meanwhile_refuse_the_parts(
    tmp_path: Path, filled: Filled, capsys: pytest.CaptureFixture[str], when: Callable[..., Any]
) -> None:
    uri = filled(tmp_path / "parts")
    done = []

    def meddled(function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        found = list(starmap(function, items))
        if function is when and not done:
            done.append(lance.write_dataset(rows(0, 100), opened(uri).uri, mode="overwrite"))
        yield from found

    assert built(uri, each=meddled) == BuiltParts(compacted=0 if when is compaction.rewrite else 20)
    assert "one process does what is left" in capsys.readouterr().err
    assert opened(uri).count_rows() == 100
    assert not opened(uri).describe_indices()


def pages(count: int) -> list[tuple[str, str]]:
    """Documents of words that few others have, so that full-text search can be proven."""
    return [
        (f"doc-{row:05d}", " ".join(f"{chr(97 + row * step % 26) * 5}{row}" for step in range(1, 8)))
        for row in range(count)
    ]


def test_a_run_that_dies_between_two_indices_is_finished_by_the_next_and_nights_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROWS_PER_FRAGMENT", 100)
    documents = pages(400)
    fakes.write(tmp_path / "corpus" / "a.parquet", documents)
    index = {"vector_index": "IVF_SQ", "text_search": ["text"], "filters": ["kind"], "parallel_rows": 100}
    given = fakes.settings(
        tmp_path,
        corpus={"payload": ["text", "kind"]},
        index={"uri": str(tmp_path / "index"), "widths": fakes.WIDTHS, **index},
    )
    committed = []
    real = index_parts.commit

    def dies(*how: Any) -> None:
        committed.append(how)
        if len(committed) == 2:
            raise KeyboardInterrupt
        real(*how)

    with monkeypatch.context() as patch:
        patch.setattr(index_parts, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            fakes.run_here(given)
    assert fakes.run_here(given)["epoch"] == 1
    epoch = open_published(given.index.uri, "docs").epoch
    assert {state.index for state in epoch.tables} == {"IVF_SQ"}
    assert epoch.description.gates["rows_unindexed"] == 0
    assert epoch.description.gates["gates.recall"] >= given.gates.recall
    assert [epoch.description.maintenance[state.name].vector_index for state in epoch.tables] == ["trained"] * 2
    assert [state.trained_rows for state in epoch.tables] == [400] * 2
    for state in epoch.tables:
        segments = tables.open_version(given.index.uri, state.name, state.version).describe_indices()
        in_parts = {found.name for found in segments if len(found.segments) > 1}
        assert in_parts == {found.name for found in segments if found.index_type != "BTree"}
    fakes.write(tmp_path / "corpus" / "b.parquet", [(f"new-{name}", f"new {text}") for name, text in documents[:50]])
    assert fakes.run_here(given)["epoch"] == 2
    after = open_published(given.index.uri, "docs").epoch
    assert after.description.gates["rows_unindexed"] == 0
    assert [after.description.maintenance[state.name].vector_index for state in after.tables] == ["extended"] * 2
    assert len(fakes.published_rows(given, 96)) == 450


@pytest.mark.slow
def test_a_part_whose_worker_is_killed_is_built_again_elsewhere(
    tmp_path: Path,
    filled: Filled,
    ray_cluster: None,  # noqa: ARG001
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = filled(tmp_path / "parts")
    killed = tmp_path / "killed"

    def once_killed(function: Callable[..., Any], *arguments: Any) -> Any:
        if function.__name__ == "build" and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    with Cluster(ClusterSettings(workers=1)) as cluster:

        def each(function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
            return cluster.map(once_killed, ((function, *arguments) for arguments in items))

        assert built(uri, each=each) == BuiltParts(compacted=20, trained_rows=ROWS)
        found = vector_index.measure(uri, NAME)
        recall = parallel.measure_recall(uri, NAME, found.version, "cosine", GATES, each)
    assert killed.exists()
    assert found.unindexed == 0
    assert recall.share >= GATES.recall
    assert "one process" not in capsys.readouterr().err
