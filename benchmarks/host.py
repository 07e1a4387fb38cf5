"""Capacity of the host: CPU time per document in the engine, time by the clock around it, 48 workers on one machine.

The engine runs without its forward pass, through vLLM's step loop and in packed steps. Around it everything is real,
except that the 48 workers do not tokenise. A worker's stages overlap with its engine: a GPU waits only if a document
takes longer on the host than on the GPU. The last line is a JSON object.
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
from benchmarks.support.engine_host import LENGTHS, engine_costs, tokenise_costs
from benchmarks.support.flops import checkpoint_flops
from benchmarks.support.fresh_process import apart
from benchmarks.support.null_model import NullModel
from benchmarks.support.workload import TOKENS_PER_WORD
from indexer.indexing import run
from indexer.settings import Settings
from indexer.testing.checkpoints import qwen3_checkpoint
from indexer.testing.corpora import tiny_corpus
from indexer.testing.random_weights import TRUE_LAYERS, TRUE_SHAPES, write_config

WORKERS = 48
"""A worker takes 0.3 GiB. Of 64 on a machine of 24 GiB Ray killed five, and their successors came a minute later."""

RATE = 2000.0
"""Documents per second of all workers together."""

MANY = 188_800
"""Documents for them: sixteen shards each, so that the last round of shards is full too."""

H200_BF16 = 989e12
"""Dense bfloat16 FLOP/s of NVIDIA's data sheet."""

GPU_SHARE = 0.5
"""Share of :data:`H200_BF16` that a busy engine reaches, to calculate a GPU's time."""


def worker_costs(root: Path, tokens: int, documents: int) -> dict[str, Any]:
    """Microseconds per document and stage of one worker process, and of the driver, by the clock.

    Stages share the worker's core, so a stage's time counts waits for the others: no stage takes more CPU than this.
    """
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
    """Efficiency of all workers, each at its part of the rate, against the time of their engines alone.

    None works before all have started: so many processes that start on a few cores would be most of what is measured.
    """
    corpus = _corpus(root / "corpus-many", 128, documents)
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": WORKERS, "include_dashboard": False})
    try:
        settings = _settings(root, corpus, "index-many", cluster={"address": machines.address}, shard_mb=1 / 16)
        # No tokenising: workers of a real cluster have cores of their own for it.
        together = (root / "started", WORKERS)
        model = NullModel.of(settings, WORKERS / RATE, tokenise=False, together=together)
        summary = run.run(settings, model)
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
        model={"name": str(root / "model"), "max_tokens": 4096},
        index={"uri": str(root / index), "widths": [256, 128, 64, 32]},
        cluster=cluster,
        run={"progress": "none", "shard_mb": shard_mb},
    )


def gpu_microseconds(root: Path, size: str, tokens: int) -> float:
    """Calculated time of a document on a GPU.

    Args:
        root: Folder for the model's configuration.
        size: Name in :data:`TRUE_SHAPES`.
        tokens: Length of the document.
    """
    config = write_config(root / size, replace(TRUE_SHAPES[size], layers=TRUE_LAYERS[size]))
    return checkpoint_flops(config, [tokens]) / (GPU_SHARE * H200_BF16) * 1e6


def with_gpus(root: Path, cost: Mapping[str, Any], engine_us: float) -> dict[str, Any]:
    """The costs with a GPU's time for a document and how many GPUs one process can keep busy at least, by model.

    At least, because the stages around the engine are timed by the clock, and only the engine by its CPU.
    """
    around = sum(cost["worker_us"][stage] for stage in ("read", "tokenise", "widths", "stage"))
    gpu_us = {size: gpu_microseconds(root, size, round(cost["tokens"])) for size in TRUE_SHAPES}
    return {
        **cost,
        "gpu_us": {size: round(value) for size, value in gpu_us.items()},
        "gpus_fed": {size: round(value / (around + engine_us), 2) for size, value in gpu_us.items()},
    }


def engine_ratios(engine: Mapping[str, Any], tokenise: Mapping[str, Any]) -> dict[str, float]:
    """What ``floors.toml`` holds: how many times less CPU packed steps and our tokenising take, at 100 tokens."""
    return {
        "loop/packed at 100": round(engine["loop"]["100"] / engine["packed"]["100"], 1),
        "tokenizers/ours at 100": round(tokenise["tokenizers"]["100"] / tokenise["ours"]["100"], 1),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The result as tables: CPU time per document in the engine and around it, GPUs fed, and the control plane."""
    engine = [
        {"tokens": length, **{f"engine: {way}": result["engine_us"][way][length] for way in ("loop", "packed")}}
        | {f"{way}": result["tokenise"][way].get(length, "") for way in ("ours", "tokenizers")}
        for length in result["engine_us"]["loop"]
    ]
    rows = [
        {
            "tokens": round(cost["tokens"]),
            **{f"worker: {name}": value for name, value in cost["worker_us"].items() if name != "engine"},
            **{f"driver: {name}": value for name, value in cost["driver_us"].items()},
        }
        for cost in result["costs"]
    ]
    gpus = [{"tokens": round(cost["tokens"]), **cost["gpus_fed"]} for cost in result["costs"]]
    tables = {
        "Microseconds of CPU per document in the engine, without its forward pass, and to tokenise": engine,
        "Microseconds per document around the engine, by the clock": rows,
        f"NVIDIA H200s that one process can feed, by arithmetic at {GPU_SHARE:.0%} of their matrix rate": gpus,
        "Many workers on this machine": [result["control_plane"]],
    }
    lines = [f"{reporting.where(result)}."]
    for title, content in tables.items():
        lines += ["", f"{title}:", "", *reporting.table(content)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--documents", type=int, default=40_000, help="documents of each length, for the costs")
    command.add_argument("--many", type=int, default=MANY, help=f"documents for the {WORKERS} workers")
    command.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        engine, tokenise = apart(engine_costs, root), apart(tokenise_costs, root)
        print(json.dumps({"engine_us": engine, "tokenise": tokenise}), flush=True)
        qwen3_checkpoint(root / "model")
        costs = []
        for tokens in LENGTHS:
            # As many tokens of each length from 100 on; a sixth of the work for the shortest.
            cost = apart(worker_costs, root, tokens, arguments.documents * 100 // max(100, tokens))
            costs.append(with_gpus(root, cost, engine["packed"][str(tokens)]))
            print(json.dumps(costs[-1]), flush=True)
        many = apart(many_workers, root, arguments.many)
    result = {
        "machine": machine.describe(),
        "engine_us": engine,
        "tokenise_us": tokenise["ours"],
        "tokenise": tokenise,
        "costs": costs,
        "control_plane": many,
        "ratios": engine_ratios(engine, tokenise),
    }
    reporting.write(arguments.out, "host", result, markdown(result))
    print(json.dumps({name: value for name, value in result.items() if name != "tokenise"}))
    if below := reporting.below_floors("host", result["ratios"] | many):
        sys.exit("; ".join(below))


if __name__ == "__main__":
    main()
