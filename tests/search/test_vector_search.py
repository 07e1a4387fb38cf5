"""Searches under a condition in tables with a vector index."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lancedb import index

from indexer.search.published import Published, open_published
from indexer.storage import vector_index
from tests.support import fakes

pytestmark = pytest.mark.heavy

ROWS, PARTITIONS, WIDTH = 1000, 20, 96

KINDS = {"few": 5, "some": 40}
"""Documents of a kind; all others are of another one."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """A published index of many partitions, of which a query looks into one."""
    root = tmp_path_factory.mktemp("vector-search")
    ids, texts = zip(*fakes.words(ROWS), strict=True)
    rare = [kind for kind, count in KINDS.items() for _ in range(count)]
    (root / "corpus").mkdir()
    kinds = rare + ["other"] * (ROWS - len(rare))
    pq.write_table(pa.table({"id": ids, "text": texts, "kind": kinds}), root / "corpus" / "a.parquet")
    tables = {"widths": [WIDTH], "vector_index": "IVF_FLAT", "filters": ["kind"]}
    given = fakes.settings(root, index=tables, gates={"recall": 0})
    with pytest.MonkeyPatch.context() as patch:
        config = index.IvfFlat(distance_type="cosine", num_partitions=PARTITIONS)
        patch.setattr(vector_index, "configuration", lambda *_: config)
        patch.setattr(vector_index, "_fold_in", lambda *_: None)  # Lance joins partitions of so few rows
        patch.setattr(vector_index, "DEFAULT_PROBES", 1)
        fakes.run_here(given)
    with open_published(given.index.uri, given.index.name) as opened:
        assert (opened.state().index, opened.state().probes) == ("IVF_FLAT", 1)
        yield opened


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("oversample", [1, 3])
def test_all_rows_that_meet_a_condition_are_found(published: Published, kind: str, oversample: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((20, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = published.nearest(vectors, 10, where=f"kind = '{kind}'", oversample=oversample)
    assert [len(hits) for hits in found] == [min(10, KINDS[kind])] * len(vectors)
    assert {hit.payload["kind"] for hits in found for hit in hits} == {kind}
