"""Checks a GPU within ten minutes: the tests that need one, then the engine's rate at four lengths for every model.

It writes ``gpu-<name of the GPU>.json``: machine, versions, and by model and length tokens/s in packed steps and in
vLLM's own loop, their share of the measured matrix rate (MFU), and the share of the time in which the host's thread
works. A model that is cut off keeps the lengths that were measured. ``--dry-run`` does the same with a small model on
this machine, to check the command. Exit status 1: a test fails or does not end, or no model was measured.
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
from benchmarks.support import machine, outcomes
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

TESTS_SECONDS = 240.0
"""Longest time of the tests. The models took 80 and twice 95 s on an H100, and all else takes half a minute."""

DRY_TESTS_SECONDS = 450.0
"""The same of a dry run, which measures one small model."""

LAST_SECONDS = 20.0
"""Before the end of this time a test that hangs since the beginning says where."""

GIB_NEEDED = {"0.6B": 8, "4B": 16, "8B": 28}
"""GPU memory for weights in bfloat16, activations and KV cache."""

CPU, GPU = "cpu", "cuda"
"""Names that torch gives to devices."""

GPU_DTYPE = "bfloat16"
"""dtype of the models on a GPU; a dry run takes the one that is faster on this machine."""

SECONDS_NEEDED = {"0.6B": 70, "4B": 75, "8B": 85}
"""Least time that is left for a model: to write and load its weights, to compile and to measure the first lengths. On
an H100 an engine started in 53, 58 and 69 s."""

FIGURES = "figures.json"
"""File for what has been measured of a model."""


def run_tests(noted: str, seconds: float) -> dict[str, Any]:
    """Runs the tests marked gpu, and prints what they print.

    Args:
        noted: File for what became of every test.
        seconds: Time after which they are ended.

    Returns:
        ``passed``: whether all passed; ``summary``: pytest's last line.
    """
    processes = min(TEST_PROCESSES, max(2, (os.cpu_count() or 2) // 2))
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--no-header", "-p", "no:cacheprovider"]
    command += ["-p", outcomes.__name__, "--timeout", str(round(max(LAST_SECONDS, seconds - LAST_SECONDS)))]
    command += ["--numprocesses", str(processes), "--dist", "loadgroup", "tests/inference/test_gpu.py"]
    summary, environment = "", os.environ | {outcomes.FILE: noted}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as tests:
        for line in tests.stdout or ():
            print(line, end="", flush=True)
            summary = line.strip() or summary
    return {"passed": tests.returncode == 0, "summary": summary}


def _tested(seconds: float) -> dict[str, Any]:
    """What :func:`run_tests` returns, and the names of the tests by what became of them, also if they do not end."""
    with tempfile.TemporaryDirectory() as folder:
        noted = Path(folder) / "outcomes"
        try:
            # In a process group of their own: what they leave behind would keep the GPU's memory.
            found = apart(run_tests, str(noted), seconds, patience=seconds)
        except RuntimeError as error:
            found = {"passed": False, "summary": str(error)}
        return {**found, "outcomes": outcomes.read(noted)}


def rates(shape: Shape, dtype: str, limit: float, batch_tokens: int, device: str, folder: str) -> dict[str, Any]:
    """Writes random weights, starts an engine and measures it at every length.

    Args:
        shape: Shape of the model.
        dtype: Its torch dtype.
        limit: FLOPs per second of the machine.
        batch_tokens: Tokens given to packed steps at once.
        device: Torch device that draws the weights.
        folder: Empty folder for the model, and for :data:`FIGURES` so far.

    Returns:
        Seconds of the start and figures by length; JSON-ready.
    """
    import torch

    path = write_weights(Path(folder) / "model", shape, dtype=dtype, device=device)
    torch.cuda.empty_cache()  # vLLM takes a share of what is free
    found: dict[str, Any] = {}
    for figures in _rates(path, dtype, limit, batch_tokens):
        found |= figures
        part = Path(folder) / f"part-of-{FIGURES}"
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(Path(folder) / FIGURES)
    return found


def _rates(path: str, dtype: str, limit: float, batch_tokens: int) -> Iterator[dict[str, Any]]:
    """Parts of what :func:`rates` returns, of a checkpoint."""
    spec = EngineSpec(path, dtype, max(LENGTHS), {"max_num_batched_tokens": STEP_TOKENS})
    began = time.perf_counter()
    engine = start_engine(spec, "embed")
    width, loop = int(engine.model_config.embedding_size), StepLoop(engine, "embed", spec.slowest)
    packed, way_back = proven(engine, loop, spec, width, subject(path, dtype, 64, 128).ids, None)
    yield {"start_seconds": round(time.perf_counter() - began, 1), "way_back": way_back}
    for length in LENGTHS:
        ids = subject(path, dtype, length, batch_tokens).ids
        few = ids[: max(1, len(ids) // LOOP_PART)]
        figures = {"loop": _figures(lambda ids: loop.run(ids, width), few, SECONDS / LOOP_PART)}
        if packed is not None:
            packed.forget()
            figures["packed"] = _figures(packed.run, ids, SECONDS)
        for figure in figures.values():
            figure["mfu"] = round(checkpoint_flops(path, [length]) / length * figure["tokens_per_second"] / limit, 4)
        print(json.dumps({"length": length, **figures}), flush=True)
        yield {str(length): figures}


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


def gpu_limits() -> tuple[float, float]:
    """Free memory of the first GPU in GiB, and its FLOPs per second."""
    import torch

    return float(torch.cuda.mem_get_info()[0]) / 2**30, matrix_rate(GPU_DTYPE)


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
    longest = DRY_TESTS_SECONDS if dry_run else TESTS_SECONDS
    result["tests"] = _tested(min(longest, end - time.monotonic()))
    print(json.dumps(result["tests"]), flush=True)
    yield result
    if dry_run:
        shapes, limit = {"small": SMALL}, limits()
    else:
        free, rate = apart(gpu_limits)
        shapes, limit = _shapes(free), {GPU_DTYPE: rate}
    result["dtype"] = faster(limit)
    result["matrix_rate"] = limit[result["dtype"]]
    for size, shape in shapes.items():
        result["models"][size] = _measured(size, shape, result, end - time.monotonic())
        print(json.dumps({size: result["models"][size]}), flush=True)
        yield result


def _measured(size: str, shape: Shape, result: Mapping[str, Any], left: float) -> dict[str, Any]:
    """Figures of a model, or why there are none."""
    needed = SECONDS_NEEDED.get(size, 0)
    if left < needed:
        return {"skipped": f"{max(left, 0):.0f} s are left, it needs {needed}"}
    tokens, device = (DRY_TOKENS, CPU) if result["dry_run"] else (BATCH_TOKENS, GPU)
    with tempfile.TemporaryDirectory() as folder:
        given = shape, result["dtype"], result["matrix_rate"], tokens, device, folder
        try:
            return dict(apart(rates, *given, patience=left))
        except RuntimeError as error:  # the others can still be measured
            file = Path(folder) / FIGURES
            known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            return {**known, "failure": str(error)}


def _shapes(free: float) -> dict[str, Shape]:
    """The models that fit so many GiB of memory, smallest first."""
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
    """Whether the tests ended and passed, and a model was measured at every length."""
    measured = [model for model in result["models"].values() if not {"failure", "skipped"} & model.keys()]
    tests = result["tests"]
    became = tests["outcomes"].keys()
    return bool(tests["passed"] and "passed" in became and became <= {"passed", "skipped"} and measured)


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
