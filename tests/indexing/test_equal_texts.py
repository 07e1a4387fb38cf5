"""Finding equal texts holds little more than eight bytes of each."""

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.indexing import equal_texts

TEXTS = 500_000

DEPARTURES = pa.table({"content_hash": pa.array([], pa.binary()), "id": pa.array([], pa.string())})


def test_the_driver_holds_few_bytes_of_a_text() -> None:
    job: Any = SimpleNamespace(settings=SimpleNamespace(index=SimpleNamespace(uri="")), reusable=())
    cluster: Any = None
    arrivals = np.random.default_rng(0).permutation(np.arange(TEXTS, dtype=np.uint64))
    tracemalloc.start()
    found = equal_texts.find(job, cluster, {}, arrivals, DEPARTURES, [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == equal_texts.NONE
    assert peak < 16 * TEXTS
