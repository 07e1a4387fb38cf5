"""Searches of a vector index under a condition."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from lancedb import index

from indexer.storage import tables, vector_index

ROWS, WIDTH, PARTITIONS, PROBES = 20_000, 32, 100, 20


@pytest.mark.parametrize("matches", [40, 5])
def test_rows_far_from_the_query_are_found_if_only_they_meet_a_condition(tmp_path: Path, matches: int) -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((ROWS, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # All where the query is not.
    wanted = np.argsort(vectors @ vectors[0])[:matches]
    kinds = np.full(ROWS, "common", dtype=object)
    kinds[wanted] = "rare"
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH)
    table = pa.table({"id": np.arange(ROWS), "kind": list(kinds), "vector": column})
    dataset = lance.write_dataset(table, tables.table_path(str(tmp_path), "t"))
    config = index.IvfSq(distance_type="cosine", num_partitions=PARTITIONS)
    tables.lancedb_table(str(tmp_path), "t").create_index("vector", config=config)

    searched = tables.search_table(str(tmp_path), "t", lance.dataset(dataset.uri).version)
    query = vector_index.vector_query(searched, vectors[0], "cosine", "IVF_SQ", PROBES)
    found = query.where("kind = 'rare'").select(["id"]).limit(10).to_list()
    best_first = wanted[::-1].tolist()
    assert {row["id"] for row in found} == set(best_first[:10])
