"""Checks a GPU within ten minutes: the tests that need one, then the engine's rate at four lengths for every model.

It writes ``gpu-<name of the GPU>.json``: machine, versions, tokens/s, share of the measured matrix rate (MFU), and the
share of the time in which the host's Python works. ``--dry-run`` does the same with a small model on this machine, to
check the command. Exit status 1: a test fails, or no model starts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.engine import subject
from benchmarks.support import machine
from benchmarks.support.flops import checkpoint_flops, limits
from benchmarks.support.fresh_process import apart
from indexer.inference.engine import Engine
from indexer.inference.engine_spec import EngineSpec
from indexer.testing.random_weights import SMALL, TRUE_LAYERS, TRUE_SHAPES, write_weights

LENGTHS = (50, 128, 512, 2048)

SECONDS = 4.0
"""Least time of a measurement."""

BATCH_TOKENS = 262_144
"""Tokens given to the engine at once; a 0.6B model takes some 0.3 s for them on an H200."""

TESTS_SECONDS = 300

GIB_NEEDED = {"0.6B": 8, "4B": 16, "8B": 28}
"""GPU memory for weights in bfloat16, activations and KV cache."""


def run_tests(seconds: int = TESTS_SECONDS) -> dict[str, Any]:
    """Runs the tests marked gpu in another process.

    Returns:
        ``passed``: whether all passed; ``summary``: pytest's last line.
    """
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--no-header", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"passed": False, "summary": f"not through after {seconds} s"}
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    failed = [line for line in lines if re.match(r"(FAILED|ERROR)\s", line)]
    return {"passed": done.returncode == 0, "summary": lines[-1], **({"failed": failed} if failed else {})}


def rates(path: str, limit: float, batch_tokens: int) -> dict[str, Any]:
    """Starts an engine and measures it at every length.

    Args:
        path: Directory of the checkpoint.
        limit: FLOPs per second of the machine.
        batch_tokens: Tokens given to the engine at once.

    Returns:
        Seconds of the start and figures by length; JSON-ready.
    """
    began = time.perf_counter()
    engine = Engine(EngineSpec(path, "bfloat16", max(LENGTHS)), subject(path, "bfloat16", 64, 128).ids)
    found: dict[str, Any] = {"start_seconds": round(time.perf_counter() - began, 1), "way_back": engine.way_back}
    for length in LENGTHS:
        ids = subject(path, "bfloat16", length, batch_tokens).ids
        engine.embed(ids)  # compiles
        tokens, start, host = 0, time.perf_counter(), time.thread_time()
        while time.perf_counter() - start < SECONDS:
            engine.embed(ids)
            tokens += ids.tokens
        seconds, cpu = time.perf_counter() - start, time.thread_time() - host
        flops = checkpoint_flops(path, [length]) / length * tokens
        found[str(length)] = {
            "tokens_per_second": round(tokens / seconds),
            "mfu": round(flops / seconds / limit, 4),
            # On a CPU the forward pass itself is the host's work.
            "host_share": round(cpu / seconds, 3),
            "host_us_per_sequence": round(cpu / (tokens / length) * 1e6, 1),
        }
        print(json.dumps({"length": length, **found[str(length)]}), flush=True)
    return found


def free_gib() -> float:
    """Free memory of the first GPU, GiB."""
    import torch

    return float(torch.cuda.mem_get_info()[0]) / 2**30


def check(*, dry_run: bool) -> dict[str, Any]:
    """Runs the tests and measures every model that fits.

    Args:
        dry_run: Use only a small model, on this machine as it is.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    result: dict[str, Any] = {"dry_run": dry_run, "machine": apart(machine.describe), "tests": run_tests()}
    print(json.dumps(result["tests"]), flush=True)
    limit = limits()["bfloat16"]
    shapes = (
        {"small": SMALL}
        if dry_run
        else {
            size: replace(shape, layers=TRUE_LAYERS[size])
            for size, shape in TRUE_SHAPES.items()
            if GIB_NEEDED[size] <= apart(free_gib)
        }
    )
    models: dict[str, Any] = {}
    for size, shape in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            path = write_weights(Path(folder) / "model", shape)
            try:
                models[size] = apart(rates, path, limit, 4096 if dry_run else BATCH_TOKENS)
            except RuntimeError as error:  # the others can still be measured
                models[size] = {"failure": str(error)}
        print(json.dumps({size: models[size]}), flush=True)
    return result | {"matrix_rate": limit, "models": models}


def main() -> None:
    """Checks, prints and writes."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--dry-run", action="store_true", help="a small model on this machine, GPU or not")
    command.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the result")
    arguments = command.parse_args()
    import torch

    if not (arguments.dry_run or torch.cuda.is_available()):
        sys.exit("this machine has no NVIDIA GPU that torch can use; --dry-run checks the command without one")
    result = check(dry_run=arguments.dry_run)
    if not arguments.dry_run:  # figures of a CPU are no GPU's
        arguments.out.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"\W+", "-", result["machine"]["gpu"]).strip("-").lower()
        (arguments.out / f"gpu-{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    if not result["tests"]["passed"] or all("failure" in model for model in result["models"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
