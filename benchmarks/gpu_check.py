"""Checks a GPU within ten minutes: the tests that need one, then the engine's rate at four lengths for every model.

It writes ``gpu-<name of the GPU>.json``: machine, versions, and by model and length tokens/s in packed steps and in
vLLM's own loop, their share of the measured matrix rate (MFU), and the share of the time in which the host's thread
works. ``--dry-run`` does the same with a small model on this machine, to check the command. Exit status 1: a test
fails, or no model starts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.engine import subject
from benchmarks.support import machine
from benchmarks.support.flops import checkpoint_flops, faster, limits, matrix_rate
from benchmarks.support.fresh_process import apart
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.proof import proven
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import start_engine
from indexer.inference.step_loop import StepLoop
from indexer.testing.random_weights import SMALL, TRUE_LAYERS, TRUE_SHAPES, Shape, write_weights

LENGTHS = (50, 128, 512, 2048)

SECONDS = 3.0
"""Least time of a measurement."""

BATCH_TOKENS = 262_144
"""Tokens given to packed steps at once; a 0.6B model takes 0.6 s for them on an H100."""

DRY_TOKENS = 4096
"""The same on a CPU."""

STEP_TOKENS = 32_768
"""Tokens of a step, as in the shipped configurations."""

LOOP_PART = 4
"""Part of these tokens, and of the time, for vLLM's own loop."""

TEST_PROCESSES = 7
"""Tests that share the GPU: those of each of vLLM's two model runners one after another, the others at once. There are
fewer where a test would have less than two cores."""

TOTAL_SECONDS = 570.0
"""Time for everything; the rest of ten minutes is for Python's own start and the end of the last process."""

TESTS_SECONDS = 250.0
"""Longest time of the tests, so that models are measured too."""

DRY_TESTS_SECONDS = 450.0
"""The same of a dry run, which measures one small model."""

GIB_NEEDED = {"0.6B": 8, "4B": 16, "8B": 28}
"""GPU memory for weights in bfloat16, activations and KV cache."""

CPU, GPU = "cpu", "cuda"
"""Names that torch gives to devices."""

GPU_DTYPE = "bfloat16"
"""dtype of the models on a GPU; a dry run takes the one that is faster on this machine."""

SECONDS_NEEDED = {"0.6B": 80, "4B": 100, "8B": 130}
"""Least time that is left for a model: to write and load its weights, to compile and to measure. On an H100 0.6B took
this, 4B and 8B some 95 s."""


def run_tests() -> dict[str, Any]:
    """Runs the tests marked gpu, and prints what they print.

    Returns:
        ``passed``: whether all passed; ``summary``: pytest's last line; ``failed``: lines of tests that failed.
    """
    processes = min(TEST_PROCESSES, max(2, (os.cpu_count() or 2) // 2))
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--no-header", "-p", "no:cacheprovider"]
    command += ["--numprocesses", str(processes), "--dist", "loadgroup", "tests/inference/test_gpu.py"]
    lines = [""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tests:
        for line in tests.stdout or ():
            print(line, end="", flush=True)
            lines += [line.strip()] if line.strip() else []
    failed = [line for line in lines if re.match(r"(FAILED|ERROR)\s", line)]
    return {"passed": tests.returncode == 0, "summary": lines[-1], **({"failed": failed} if failed else {})}


def rates(shape: Shape, dtype: str, limit: float, batch_tokens: int, device: str) -> dict[str, Any]:
    """Writes random weights, starts an engine and measures it at every length.

    Args:
        shape: Shape of the model.
        dtype: Its torch dtype.
        limit: FLOPs per second of the machine.
        batch_tokens: Tokens given to packed steps at once.
        device: Torch device that draws the weights.

    Returns:
        Seconds of the start and figures by length; JSON-ready.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = write_weights(Path(folder) / "model", shape, dtype=dtype, device=device)
        torch.cuda.empty_cache()  # vLLM takes a share of what is free
        return _rates(path, dtype, limit, batch_tokens)


def _rates(path: str, dtype: str, limit: float, batch_tokens: int) -> dict[str, Any]:
    """As :func:`rates`, of a checkpoint."""
    spec = EngineSpec(path, dtype, max(LENGTHS), {"max_num_batched_tokens": STEP_TOKENS})
    began = time.perf_counter()
    engine = start_engine(spec, "embed")
    width, loop = int(engine.model_config.embedding_size), StepLoop(engine, "embed", spec.slowest)
    packed, way_back = proven(engine, loop, spec, width, subject(path, dtype, 64, 128).ids, None)
    found: dict[str, Any] = {"start_seconds": round(time.perf_counter() - began, 1), "way_back": way_back}
    for length in LENGTHS:
        ids = subject(path, dtype, length, batch_tokens).ids
        few = ids[: max(1, len(ids) // LOOP_PART)]
        figures = {"loop": _figures(lambda ids: loop.run(ids, width), few, SECONDS / LOOP_PART)}
        if packed is not None:
            packed.forget()
            figures["packed"] = _figures(packed.run, ids, SECONDS)
        for figure in figures.values():
            figure["mfu"] = round(checkpoint_flops(path, [length]) / length * figure["tokens_per_second"] / limit, 4)
        found[str(length)] = figures
        print(json.dumps({"length": length, **figures}), flush=True)
    return found


def _figures(run: Callable[[TokenSequences], Any], ids: TokenSequences, least: float) -> dict[str, float]:
    """Rate and host time of sequences of one length, for some seconds after a first part that warms up."""
    run(ids[: max(1, len(ids) // LOOP_PART)])
    calls, start, host = 0, time.perf_counter(), time.thread_time()
    while time.perf_counter() - start < least:
        run(ids)
        calls += 1
    seconds, cpu = time.perf_counter() - start, time.thread_time() - host
    return {
        "tokens_per_second": round(calls * ids.tokens / seconds),
        # On a CPU the forward pass itself is the host's work.
        "host_share": round(cpu / seconds, 3),
        "host_us_per_sequence": round(cpu / (calls * len(ids)) * 1e6, 1),
    }


def free_gib() -> float:
    """Free memory of the first GPU, GiB."""
    import torch

    return float(torch.cuda.mem_get_info()[0]) / 2**30


def check(*, dry_run: bool, seconds: float = TOTAL_SECONDS) -> Iterator[dict[str, Any]]:
    """Runs the tests and measures every model that fits the GPU and the time that is left.

    Args:
        dry_run: Use only a small model, on this machine as it is.
        seconds: Time for everything.

    Yields:
        The result so far, after the tests and after each model; JSON-ready.
    """
    end = time.monotonic() + seconds
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    result: dict[str, Any] = {"dry_run": dry_run, "machine": apart(machine.describe), "models": {}}
    try:
        longest = DRY_TESTS_SECONDS if dry_run else TESTS_SECONDS
        # In a process group of their own: what they leave behind would keep the GPU's memory.
        result["tests"] = apart(run_tests, patience=min(longest, end - time.monotonic()))
    except RuntimeError as error:
        result["tests"] = {"passed": False, "summary": str(error)}
    print(json.dumps(result["tests"]), flush=True)
    yield result
    limit = limits() if dry_run else {GPU_DTYPE: apart(matrix_rate, GPU_DTYPE)}
    result["dtype"] = faster(limit)
    result["matrix_rate"] = limit[result["dtype"]]
    for size, shape in _shapes(dry_run=dry_run).items():
        result["models"][size] = _measured(size, shape, result, end - time.monotonic())
        print(json.dumps({size: result["models"][size]}), flush=True)
        yield result


def _measured(size: str, shape: Shape, result: Mapping[str, Any], left: float) -> dict[str, Any]:
    """Figures of a model, or why there are none."""
    needed = SECONDS_NEEDED.get(size, 0)
    if left < needed:
        return {"skipped": f"{max(left, 0):.0f} s are left, it needs {needed}"}
    try:
        tokens, device = (DRY_TOKENS, CPU) if result["dry_run"] else (BATCH_TOKENS, GPU)
        return dict(apart(rates, shape, result["dtype"], result["matrix_rate"], tokens, device, patience=left))
    except RuntimeError as error:  # the others can still be measured
        return {"failure": str(error)}


def _shapes(*, dry_run: bool) -> dict[str, Shape]:
    """The models that fit the GPU, smallest first; only a small one for a dry run."""
    if dry_run:
        return {"small": SMALL}
    free = apart(free_gib)
    return {
        size: replace(shape, layers=TRUE_LAYERS[size])
        for size, shape in TRUE_SHAPES.items()
        if GIB_NEEDED[size] <= free
    }


def write(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes a result under the name of its GPU, over the one so far; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", result["machine"]["gpu"]).strip("-").lower()
    file = folder / f"gpu-{name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return file


def is_good(result: Mapping[str, Any]) -> bool:
    """Whether the tests passed and a model was measured."""
    measured = [model for model in result["models"].values() if not {"failure", "skipped"} & model.keys()]
    return bool(result["tests"]["passed"] and measured)


def main() -> None:
    """Checks, prints and writes."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--dry-run", action="store_true", help="a small model on this machine, GPU or not")
    command.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the result")
    arguments = command.parse_args()
    import torch

    if not (arguments.dry_run or torch.cuda.is_available()):
        sys.exit("this machine has no NVIDIA GPU that torch can use; --dry-run checks the command without one")
    result: dict[str, Any] = {}
    for result in check(dry_run=arguments.dry_run):
        if not arguments.dry_run:  # figures of a CPU are no GPU's
            write(arguments.out, result)
    print(json.dumps(result))
    if not is_good(result):
        sys.exit(1)


if __name__ == "__main__":
    main()
