"""Staging and committing on real Lance tables: the properties of Lance that exactly-once rests on."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from indexer import schema
from indexer.errors import CannotFinish, IndexerError
from indexer.inference import matryoshka
from indexer.schema import Layout
from indexer.settings import TextSettings
from indexer.storage import commits, filters, lookups, scalar_indices, tables, text_index, vector_index
from indexer.storage.commits import Change
from indexer.storage.description import TextRecord
from indexer.storage.search_indices import SearchIndices

LAYOUT = Layout("docs", 1, (64, 32), "float32", "cosine", pa.schema([pa.field("kind", pa.string())]))

NAME = LAYOUT.table(64)

NOTHING = pa.chunked_array([], pa.string())


def rows(start: int, stop: int) -> pa.Table:
    """Rows with ids ``start`` to ``stop``; the vector follows from the id."""
    count = stop - start
    vectors = np.stack([np.random.default_rng(row).standard_normal(64, np.float32) for row in range(start, stop)])
    columns = [
        pa.array([f"{row:05d}" for row in range(start, stop)]),
        *[pa.array(np.zeros(count, np.int32))] * 3,
        pa.array(["page"] * count),
        pa.array([bytes(16)] * count, schema.CONTENT_HASH_TYPE),
        pa.array([bytes(8)] * count, schema.PAYLOAD_HASH_TYPE),
        matryoshka.fixed_size_list(matryoshka.cut(vectors, 64), "float32"),
    ]
    return pa.table(columns, schema=LAYOUT.schema(64))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    tables.create_missing(str(tmp_path), LAYOUT.schemas(), "docs")
    return str(tmp_path)


def ids(uri: str, version: int) -> list[str]:
    return sorted(name for batch in tables.read(uri, NAME, version, ["id"]) for name in batch["id"].to_pylist())


def named(*spans: tuple[int, int]) -> list[str]:
    return [f"{row:05d}" for start, stop in spans for row in range(start, stop)]


def change(epoch: int, base: int, added: list[dict[str, object]], dropped: pa.ChunkedArray | None = NOTHING) -> Change:
    return Change(epoch, str(epoch), base, added, dropped, {"model": "m"}, "docs")


def dropping(start: int, stop: int) -> pa.ChunkedArray:
    return pa.chunked_array([named((start, stop))])


def test_staged_rows_are_invisible_until_committed_and_then_there_once(uri: str) -> None:
    staged = [part for start in (0, 100) for part in tables.stage(uri, NAME, rows(start, start + 100))]
    assert vector_index.measure(uri, NAME).rows == 0
    version = commits.commit(uri, NAME, change(1, 1, staged))
    assert commits.commit(uri, NAME, change(1, 1, staged)) == version
    assert ids(uri, version) == named((0, 200))
    assert tables.entries(tables.open_version(uri, NAME, version)) == {
        "epoch": "1",
        "intent": "1",
        "index": "docs",
        "model": "m",
    }


def test_many_committers_at_once_commit_once(uri: str) -> None:
    staged = tables.stage(uri, NAME, rows(0, 50))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: commits.commit(uri, NAME, change(1, 1, staged)), range(8)))
    assert ids(uri, vector_index.measure(uri, NAME).version) == named((0, 50))


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["IVF_FLAT", "IVF_SQ", "IVF_RQ"])
def test_additions_and_removals_are_one_version_and_indices_survive(uri: str, kind: str) -> None:
    first = commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 300))))
    vector_index.maintain(uri, NAME, kind, "cosine")
    base = vector_index.measure(uri, NAME)
    assert (base.index, base.unindexed) == (kind, 0)
    second = commits.commit(
        uri, NAME, change(2, base.version, tables.stage(uri, NAME, rows(300, 310)), dropping(5, 15))
    )
    assert second == base.version + 1
    assert ids(uri, second) == named((0, 5), (15, 310))
    assert ids(uri, first) == named((0, 300))
    assert vector_index.measure(uri, NAME).unindexed == 10
    vector_index.maintain(uri, NAME, kind, "cosine")
    after = vector_index.measure(uri, NAME)
    assert (after.unindexed, after.rows) == (0, 300)
    assert vector_index.measure_recall(uri, NAME, after.version, "cosine", 300, 1.0).share > 0.99
    lance.dataset(f"{uri}/{NAME}.lance").validate()


@pytest.mark.heavy
def test_recall_is_measured_and_partitions_are_added_until_it_is_enough(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LanceDB makes a partition of some thousands of rows; its 20 would be all of a table this small."""
    monkeypatch.setattr(vector_index, "DEFAULT_PROBES", 1)
    commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 20_000))))
    vector_index.maintain(uri, NAME, "IVF_FLAT", "cosine")
    version = vector_index.measure(uri, NAME).version
    default, enough = (vector_index.measure_recall(uri, NAME, version, "cosine", 50, wanted) for wanted in (0.0, 0.999))
    assert default.probes == 1
    assert default.share < 0.999 <= enough.share
    assert default.probes < enough.probes


@pytest.mark.parametrize(("kind", "gained"), [("IVF_PQ", 0.1), ("IVF_RQ", 0.1), ("IVF_SQ", 0.01)])
def test_what_quantised_vectors_find_is_ranked_by_the_vectors_themselves(
    uri: str, monkeypatch: pytest.MonkeyPatch, kind: str, gained: float
) -> None:
    commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 5000))))
    vector_index.maintain(uri, NAME, kind, "cosine")
    version = vector_index.measure(uri, NAME).version
    ranked = vector_index.measure_recall(uri, NAME, version, "cosine", 50, 1.0).share
    monkeypatch.setattr(vector_index, "REFINED", {})
    by_codes = vector_index.measure_recall(uri, NAME, version, "cosine", 50, 1.0).share
    assert by_codes + gained < ranked


@pytest.mark.heavy
def test_equal_vectors_are_equally_near(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of one text: which ten of them an index finds is no fault of it."""
    few = [rows(start % 40, start % 40 + 20) for start in range(0, 20_000, 20)]
    commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, pa.concat_tables(few))))
    vector_index.maintain(uri, NAME, "IVF_PQ", "cosine")
    monkeypatch.setattr(vector_index, "REFINED", {})
    assert (
        vector_index.measure_recall(uri, NAME, vector_index.measure(uri, NAME).version, "cosine", 50, 1.0).share > 0.99
    )


def test_another_type_of_vector_index_replaces_the_old_one(uri: str) -> None:
    commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 300))))
    for kind in vector_index.INDEX_CONFIGS:
        assert vector_index.maintain(uri, NAME, kind, "cosine").vector_index == "trained"
        assert vector_index.measure(uri, NAME).index == kind
        assert vector_index.maintain(uri, NAME, kind, "cosine", 300).vector_index == "extended"
    assert vector_index.maintain(uri, NAME, "none", "cosine", 300).vector_index == "none"
    assert (vector_index.measure(uri, NAME).index, vector_index.measure(uri, NAME).unindexed) == ("none", 0)


def test_the_vector_index_of_a_table_that_has_doubled_is_trained_anew(uri: str) -> None:
    commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 300))))
    vector_index.maintain(uri, NAME, "IVF_FLAT", "cosine")
    for epoch, (start, stop, done, trained) in enumerate([(300, 599, "extended", 300), (599, 600, "trained", 600)], 2):
        version = vector_index.measure(uri, NAME).version
        commits.commit(uri, NAME, change(epoch, version, tables.stage(uri, NAME, rows(start, stop))))
        found = vector_index.maintain(uri, NAME, "IVF_FLAT", "cosine", 300)
        assert (found.vector_index, found.trained_rows) == (done, trained)
        assert vector_index.measure(uri, NAME).unindexed == 0


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["IVF_FLAT", "IVF_SQ", "IVF_RQ"])
def test_a_vector_index_gets_segments_until_there_are_many(
    uri: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "MOST_SEGMENTS", 4)
    monkeypatch.setattr(vector_index, "JOINED_SEGMENTS", 3)
    version = commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 300))))
    vector_index.maintain(uri, NAME, kind, "cosine")
    first, *_ = segments = _vector_segments(uri)
    counts = [len(segments)]
    for epoch in range(2, 10):
        version = vector_index.measure(uri, NAME).version
        added = tables.stage(uri, NAME, rows(290 + 10 * (epoch - 1), 290 + 10 * epoch))
        commits.commit(uri, NAME, change(epoch, version, added))
        assert vector_index.maintain(uri, NAME, kind, "cosine", 300).vector_index == "extended"
        found = vector_index.measure(uri, NAME)
        assert found.unindexed == 0
        counts.append(len(_vector_segments(uri)))
    assert counts == [1, 2, 3, 4, 2, 3, 4, 2, 3]
    assert first in _vector_segments(uri)  # what was trained is not written anew
    assert vector_index.measure_recall(uri, NAME, found.version, "cosine", 380, 1.0).share > 0.99


def _vector_segments(uri: str) -> list[str]:
    """UUIDs of the segments of the vector index."""
    (found,) = (one for one in lance.dataset(f"{uri}/{NAME}.lance").describe_indices() if "vector" in one.field_names)
    return [segment.uuid for segment in found.segments]


def test_new_rows_of_a_large_table_get_segments_until_there_are_many(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "SEGMENT_ROWS", 100)
    monkeypatch.setattr(vector_index, "MOST_SEGMENTS", 3)
    text = TextRecord(columns=["kind"], **TextSettings().model_dump())
    wanted = SearchIndices(text, ["kind"], contents=True)
    version = commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 200))))
    segments, fragments = [], []
    for epoch in range(2, 8):
        vector_index.maintain(uri, NAME, "none", "cosine", wanted=wanted)
        found = vector_index.measure(uri, NAME)
        version = found.version
        assert found.unindexed == 0
        dataset = lance.dataset(f"{uri}/{NAME}.lance")
        segments.append({index.name: len(index.segments) for index in dataset.describe_indices()})
        fragments.append(len(dataset.get_fragments()))
        dropped = pa.chunked_array([[f"{epoch:05d}", f"{200 + 10 * epoch - 1:05d}"]])
        added = tables.stage(uri, NAME, rows(200 + 10 * epoch, 210 + 10 * epoch))
        version = commits.commit(uri, NAME, change(epoch, version, added, dropped))
        assert scalar_indices.has_contents(uri, NAME, version)
    assert [{*counts.values()} for counts in segments] == [{1}, {2}, {3}, {1}, {2}, {3}]
    assert fragments == [1, 2, 3, 4, 2, 3]
    left = sorted({*range(200), *range(220, 280)} - {*range(2, 8), 229, 239, 249, 259, 269})
    assert ids(uri, version) == [f"{row:05d}" for row in left]
    some = [f"{row:05d}" for row in (0, 7, 100, 229, 231, 275)]
    assert sorted(lookups.lookup(uri, NAME, version, some, ["id"])["id"].to_pylist()) == [
        "00000",
        "00100",
        "00231",
        "00275",
    ]
    same = lookups.lookup_contents(uri, NAME, version, [bytes(16), b"x" * 16], ["id"])
    assert same.num_rows == len(left)
    dataset = tables.open_version(uri, NAME, version)
    assert len(text_index.search(dataset, "page", ["kind"], 1000, None, ["id", "chunk"])) == len(left)
    assert dataset.count_rows(filters.one_of("kind", ["page"])) == len(left)


def test_a_full_text_index_of_no_rows_is_built_again(uri: str) -> None:
    text = TextRecord(columns=["kind"], **TextSettings().model_dump())
    dataset = lance.dataset(f"{uri}/{NAME}.lance")
    scalar_indices.build(dataset, text_index.spec("kind", text))
    assert not text_index.is_built(dataset, "kind", text)
    commits.commit(uri, NAME, change(1, 2, tables.stage(uri, NAME, rows(0, 5))))
    vector_index.maintain(uri, NAME, "none", "cosine", wanted=SearchIndices(text))
    assert text_index.is_built(lance.dataset(f"{uri}/{NAME}.lance"), "kind", text)


def test_an_untouched_table_of_another_schema_is_made_anew(uri: str) -> None:
    other = Layout("docs", 1, (64, 32), "float16", "cosine", pa.schema([]))
    tables.create_missing(uri, other.schemas(), "docs")
    assert lance.dataset(f"{uri}/{NAME}.lance").schema.names == other.schema(64).names
    tables.create_missing(uri, LAYOUT.schemas(), "docs")
    commits.commit(uri, NAME, change(1, 0, tables.stage(uri, NAME, rows(0, 50))))
    with pytest.raises(IndexerError, match="other columns"):
        tables.create_missing(uri, other.schemas(), "docs")
    assert vector_index.measure(uri, NAME).rows == 50


def test_whole_fragments_can_go(uri: str) -> None:
    staged = [part for start in range(0, 300, 100) for part in tables.stage(uri, NAME, rows(start, start + 100))]
    base = commits.commit(uri, NAME, change(1, 1, staged))
    version = commits.commit(uri, NAME, change(2, base, [], dropping(0, 250)))
    assert ids(uri, version) == named((250, 300))
    version = commits.commit(uri, NAME, change(3, version, [], dropping(250, 300)))
    assert ids(uri, version) == []
    version = commits.commit(uri, NAME, change(4, version, tables.stage(uri, NAME, rows(7, 9))))
    assert ids(uri, version) == named((7, 9))
    added = tables.stage(uri, NAME, rows(20, 22))
    version = commits.commit(uri, NAME, change(5, version, added, dropping(7, 9)))
    assert ids(uri, version) == named((20, 22))


def test_an_epoch_starts_from_its_base_whatever_was_written_since(uri: str) -> None:
    base = commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 20))))
    lance.write_dataset(rows(90, 95), f"{uri}/{NAME}.lance", mode="append")
    version = commits.commit(uri, NAME, change(2, base, tables.stage(uri, NAME, rows(20, 22)), dropping(0, 1)))
    assert ids(uri, version) == named((1, 22))


def test_a_process_that_wakes_up_late_changes_nothing(uri: str) -> None:
    late = tables.stage(uri, NAME, rows(500, 510))
    base = commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 20))))
    version = commits.commit(uri, NAME, change(2, base, []))
    assert commits.commit(uri, NAME, change(2, base, late)) == version
    with pytest.raises(CannotFinish, match="already at epoch 2"):
        commits.commit(uri, NAME, change(1, 1, late))
    assert ids(uri, vector_index.measure(uri, NAME).version) == named((0, 20))


def test_a_column_that_is_renamed_while_emptied_fragments_go_is_there(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 20))))
    real = lance.LanceDataset.commit

    def beside(dataset: lance.LanceDataset, operation: object, *arguments: object, **named: object) -> object:
        if isinstance(operation, lance.LanceOperation.Delete) and dataset.version == base:
            lance.dataset(dataset.uri).alter_columns({"path": "kind", "name": "sort"})
        return real(dataset, operation, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(beside))
    staged = tables.stage(uri, NAME, rows(0, 20))
    version = commits.commit(uri, NAME, change(2, base, staged, dropping(0, 20)))
    assert tables.open_version(uri, NAME, version).schema.names == LAYOUT.schema(64).names
    assert ids(uri, version) == named((0, 20))


def test_a_missing_staged_file_is_never_committed(uri: str) -> None:
    staged = tables.stage(uri, NAME, rows(0, 5))
    next(Path(uri).glob(f"{NAME}.lance/data/*")).unlink()
    with pytest.raises(IndexerError, match="is missing"):
        commits.commit(uri, NAME, change(1, 1, staged))
    assert vector_index.measure(uri, NAME).version == 1


def test_the_content_can_be_replaced(uri: str) -> None:
    commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, rows(0, 20)), None))
    version = commits.commit(uri, NAME, change(2, 0, tables.stage(uri, NAME, rows(50, 53)), None))
    assert ids(uri, version) == named((50, 53))
    assert ids(uri, commits.commit(uri, NAME, change(3, 0, [], None))) == []


def test_fragments_are_compacted(uri: str) -> None:
    staged = [part for start in range(0, 200, 10) for part in tables.stage(uri, NAME, rows(start, start + 10))]
    commits.commit(uri, NAME, change(1, 1, staged))
    vector_index.maintain(uri, NAME, "none", "cosine")
    dataset = lance.dataset(f"{uri}/{NAME}.lance")
    assert len(dataset.get_fragments()) == 1
    assert ids(uri, dataset.version) == named((0, 200))


def test_staged_rows_can_be_read_back(uri: str) -> None:
    staged = tables.stage(uri, NAME, rows(0, 5))
    (batch,) = tables.read_staged(uri, NAME, staged, ["vector"])
    assert batch.column(0).equals(rows(0, 5)["vector"].combine_chunks())


@pytest.mark.parametrize(
    ("setting", "count", "width", "kind"),
    [
        ("auto", 10_000, 1024, "none"),
        ("auto", 100_000, 1024, "IVF_SQ"),
        ("auto", 100_000, 256, "none"),
        ("auto", 50_000_000, 256, "IVF_RQ"),
        ("auto", 50_000_000, 100, "IVF_PQ"),
        ("none", 50_000_000, 256, "none"),
        ("IVF_FLAT", 10, 256, "IVF_FLAT"),
        ("IVF_RQ", 1, 256, "IVF_RQ"),
        ("IVF_HNSW_SQ", 0, 256, "none"),
        ("IVF_PQ", 255, 256, "none"),
        ("IVF_HNSW_PQ", 255, 256, "none"),
        ("IVF_PQ", 256, 256, "IVF_PQ"),
    ],
)
def test_the_vector_index_follows_rows_and_width(setting: str, count: int, width: int, kind: str) -> None:
    assert vector_index.choose_index_type(setting, count, width) == kind


@pytest.mark.parametrize("value", ["plain", "it's", "''", "a' OR 'a'='a", "new\nline", "\u00e9\U0001f600", "100%_"])
def test_quoted_values_are_one_literal(uri: str, value: str) -> None:
    table = rows(0, 3).set_column(0, LAYOUT.schema(64).field("id"), pa.array([value, "x", "it"]))
    version = commits.commit(uri, NAME, change(1, 1, tables.stage(uri, NAME, table)))
    found = tables.search_table(uri, NAME, version).search().where(filters.one_of("id", [value])).to_list()
    assert [row["id"] for row in found] == [value]
