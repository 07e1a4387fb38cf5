"""Capacity of the host: work around the engine per document, and a control plane of 64 workers on one machine.

The engine costs nothing or sleeps. Everything else is real, except that the 64 workers do not tokenise. A worker's
stages overlap with its engine: the engine waits only if a document takes longer on the host than on the engine.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster as Machines

from benchmarks.support import machine, reporting
from benchmarks.support.flops import checkpoint_flops
from benchmarks.support.fresh_process import apart
from benchmarks.support.null_model import NullModel
from benchmarks.support.workload import TOKENS_PER_WORD
from indexer.indexing import run
from indexer.settings import Settings
from indexer.testing.checkpoints import qwen3_checkpoint
from indexer.testing.corpora import tiny_corpus
from indexer.testing.random_weights import TRUE_LAYERS, TRUE_SHAPES, write_config

WORKERS = 64

RATE = 2000.0
"""Documents per second of all 64 workers together."""

H200_BF16 = 989e12
"""Dense bfloat16 FLOP/s of NVIDIA's data sheet."""

GPU_SHARE = 0.5
"""Share of :data:`H200_BF16` that a busy engine reaches, to calculate a GPU's time."""


def worker_costs(root: Path, tokens: int, documents: int) -> dict[str, Any]:
    """Microseconds per document and stage of one worker process, and of the driver."""
    corpus = _corpus(root / f"corpus-{tokens}", tokens, documents)
    settings = _settings(root, corpus, f"index-{tokens}", cluster={"address": "local", "workers": 1})
    summary = run.run(settings, NullModel.of(settings))
    stages = {name: seconds / documents * 1e6 for name, seconds in summary["worker_stages"].items()}
    driver = {
        name: summary["stages"][name] / documents * 1e6 for name in ("scan", "compare", "check", "commit", "index")
    }
    return {
        "tokens": summary["tokens"] / documents,
        "documents_per_second": round(documents / summary["stages"]["embed"]),
        "worker_us": {name: round(value, 1) for name, value in stages.items()},
        "driver_us": {name: round(value, 1) for name, value in driver.items()},
    }


def many_workers(root: Path, documents: int) -> dict[str, Any]:
    """Efficiency of 64 workers, each at 1/64 of the rate, against the time of their engines alone."""
    corpus = _corpus(root / "corpus-many", 128, documents)
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": WORKERS, "include_dashboard": False})
    try:
        settings = _settings(root, corpus, "index-many", cluster={"address": machines.address}, shard_mb=1 / 64)
        # No tokenising: 64 workers of a real cluster have cores of their own for it.
        summary = run.run(settings, NullModel.of(settings, WORKERS / RATE, tokenise=False))
    finally:
        machines.shutdown()
    ideal = documents / RATE
    return {
        "workers": WORKERS,
        "documents": documents,
        "ideal_seconds": ideal,
        "seconds": summary["stages"]["embed"],
        "efficiency": round(ideal / summary["stages"]["embed"], 3),
    }


def _corpus(root: Path, tokens: int, documents: int) -> str:
    """Writes a corpus of documents with about so many tokens."""
    words = round(tokens / TOKENS_PER_WORD)
    return tiny_corpus(root, documents, files=8, rows_per_group=2000, words=(words, words))


def _settings(root: Path, corpus: str, index: str, *, cluster: dict[str, Any], shard_mb: float = 8.0) -> Settings:
    """Settings of a job on the corpus."""
    return Settings(
        corpus={"uri": corpus},
        model={"name": str(root / "model"), "max_tokens": 1024},
        index={"uri": str(root / index), "widths": [256, 128, 64, 32]},
        cluster=cluster,
        run={"progress": "none", "shard_mb": shard_mb},
    )


def gpu_microseconds(root: Path, tokens: int) -> float:
    """Calculated time of a document with a 0.6B model on a GPU."""
    config = write_config(root / "0.6B", replace(TRUE_SHAPES["0.6B"], layers=TRUE_LAYERS["0.6B"]))
    return checkpoint_flops(config, [tokens]) / (GPU_SHARE * H200_BF16) * 1e6


def markdown(result: Mapping[str, Any]) -> str:
    """The result as tables: microseconds per document and stage, and the control plane."""
    rows = [
        {
            "tokens": round(cost["tokens"]),
            **{f"worker: {name}": value for name, value in cost["worker_us"].items()},
            **{f"driver: {name}": value for name, value in cost["driver_us"].items()},
            "a GPU, by arithmetic": cost["gpu_us_by_arithmetic"],
        }
        for cost in result["costs"]
    ]
    lines = [f"{reporting.where(result)}. Microseconds per document:", "", *reporting.table(rows), ""]
    return "\n".join([*lines, "Many workers on this machine:", "", *reporting.table([result["control_plane"]])]) + "\n"


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--documents", type=int, default=40_000, help="documents of each length, for the costs")
    command.add_argument("--many", type=int, default=192_000, help="documents for the 64 workers")
    command.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        qwen3_checkpoint(root / "model")
        costs = []
        for tokens in (128, 512):
            cost = apart(worker_costs, root, tokens, arguments.documents)
            cost["gpu_us_by_arithmetic"] = round(gpu_microseconds(root, tokens))
            costs.append(cost)
            print(json.dumps(cost), flush=True)
        many = apart(many_workers, root, arguments.many)
    result = {"machine": machine.describe(), "costs": costs, "control_plane": many}
    reporting.write(arguments.out, "host", result, markdown(result))
    print(json.dumps(many))
    if below := reporting.below_floors("host", many):
        sys.exit("; ".join(below))


if __name__ == "__main__":
    main()
