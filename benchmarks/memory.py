"""Resident memory of driver, workers and tasks on two corpora, one 8 times as large as the other.

The fake engine stands in for vLLM, whose memory depends on the model and not on the corpus. Each corpus is indexed by a
fresh driver process, and written by another; peaks are the kernel's (``VmHWM``). Tasks compare ids and maintain tables;
for small corpora the driver does. A task's memory is bounded, but differs between the corpora.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from indexer.indexing import run
from indexer.inference.model import open_model
from indexer.settings import Settings
from indexer.testing.checkpoints import minilm_path
from indexer.testing.corpora import tiny_corpus
from indexer.testing.fakes import FakeModel

DOCUMENTS_PER_FILE = 10_000

TIMES = 8

SHARD_MB = 0.0625
"""Size of a small job's smallest shards, so that both corpora are cut alike."""

SECONDS_BETWEEN_LOOKS = 0.2

WORKER = b"ray::Worker"
"""Ray's name for the process of a :class:`indexer.cluster.Worker`; a task's process has the function's name."""

RAYS_OWN = (b"ray::IDLE", b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")


def peak_mib(process: str) -> float:
    """Peak resident memory of a process, MiB; 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


@contextmanager
def ray_peaks() -> Iterator[dict[str, float]]:
    """Peaks of the largest worker and of the largest task of this machine while the block runs, MiB.

    Yields:
        ``worker_mib`` and ``task_mib``, 0 without a process; nothing else may use Ray meanwhile.
    """
    largest = {"worker_mib": 0.0, "task_mib": 0.0}
    done = threading.Event()

    def look() -> None:
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            for kind, peak in _ray_processes():
                largest[kind] = max(largest[kind], peak)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield largest
    finally:
        done.set()
        watcher.join()


def _ray_processes() -> Iterator[tuple[str, float]]:
    """Kind and peak memory of every worker and task process of this machine."""
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if command.startswith(b"ray::") and not command.startswith(RAYS_OWN):
            yield ("worker_mib" if command.startswith(WORKER) else "task_mib"), peak_mib(entry.name)


def measure(root: str) -> dict[str, Any]:
    """Indexes a corpus in this process.

    Args:
        root: Folder with the corpus.

    Returns:
        Documents indexed, and peaks in MiB of the driver, of the largest worker and of the largest task (0 for none).
    """
    settings = Settings(
        corpus={"uri": f"{root}/corpus", "payload": ["kind"]},
        model={"name": minilm_path(), "max_tokens": 64},
        index={"uri": f"{root}/index", "widths": [384, 96]},
        cluster={"address": "local"},
        run={"progress": "none", "shard_mb": SHARD_MB},
    )
    with ray_peaks() as peaks:
        summary = run.run(settings, FakeModel.of(open_model(settings.model, settings.engine)))
    return {"indexed": summary["indexed"], "driver_mib": peak_mib("self"), **peaks}


def _in_new_process(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Calls a function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments, **named).result()


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--documents", type=int, default=20_000, help="documents of the smaller corpus")
    arguments = command.parse_args()
    results = []
    for documents in (arguments.documents, TIMES * arguments.documents):
        with tempfile.TemporaryDirectory() as root:
            layout = {"files": documents // DOCUMENTS_PER_FILE, "rows_per_group": 2000}
            _in_new_process(tiny_corpus, f"{root}/corpus", documents, **layout)
            results.append(_in_new_process(measure, root))
        print({name: round(value) for name, value in results[-1].items()}, flush=True)
    small, large = results
    growth = {f"{name}_growth": round(large[name] / small[name], 3) for name in ("driver_mib", "worker_mib")}
    print(json.dumps({"times": TIMES, "small": small, "large": large, **growth}))


if __name__ == "__main__":
    main()
