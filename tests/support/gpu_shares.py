"""Shares of a GPU for engines of tests, whose processes run beside each other."""

from typing import Any

from indexer.inference import start

SHARE = 0.1

CACHE_BYTES = 2**29


def take_little() -> None:
    """Engines of this process take a tenth of what is free of a GPU, unless a test says how much."""
    start.GPU_SHARE = SHARE
    for_gpu = start.for_gpu

    def with_cache(*given: Any) -> dict[str, Any]:
        # With the cache's size given, vLLM neither measures the GPU nor minds who gives memory back meanwhile.
        return {"kv_cache_memory_bytes": CACHE_BYTES, **for_gpu(*given)}

    start.for_gpu = with_cache
