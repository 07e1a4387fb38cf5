"""The work around the model for millions of ids: time by stage, peak memory, and what a changed file costs.

Every document is one token, and all share one vector. The first night indexes the whole corpus of 100 files. Before the
second night, one file is rewritten, with 1,000 of its documents changed. The same change, of a file of as many rows, is
made among a tenth of the ids in a tenth of the files: a night that costs what changed takes as long for both.
"""

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.memory import peak_mib, ray_peaks
from benchmarks.support.null_model import NullModel
from indexer.indexing import run
from indexer.settings import Settings
from indexer.testing.checkpoints import minilm_path

FILES = 100
"""Files of the larger corpus; the smaller one has fewer of the same size."""

CHANGED = 1_000
"""Documents that are changed, in one file."""

TIMES = 10
"""How many times as many ids the larger corpus has."""

WIDTH = 32

NOT_COUNTED = ("connect", "start", "embed")
"""Stages that start Ray and its workers, and that embed."""

MOST_TIMES = 1.5

MOST_SECONDS = 20.0

MOST_MIB = 1024


def write_corpus(root: Path, ids: int, file_rows: int) -> None:
    """Writes documents with ids of 16 characters and texts of about 20."""
    root.mkdir()
    for number, first in enumerate(range(0, ids, file_rows)):
        _write(root / f"{number:03d}.parquet", range(first, min(ids, first + file_rows)), "text")


def _write(file: Path, rows: range, word: str, changed: int = 0) -> None:
    """Writes one file of documents, the first of them changed."""
    # Ids in the order of a hash, as in most corpora: every file covers the whole range of ids.
    table = {
        "id": [f"{row * 0x9E3779B97F4A7C15 % 2**64:016x}" for row in rows],
        "text": [f"{word if at < changed else 'text'} of document {row}" for at, row in enumerate(rows)],
    }
    pq.write_table(pa.table(table), file, row_group_size=50_000)


def night(root: Path, index: str) -> dict[str, Any]:
    """One run, in this process, with this type of vector index.

    Returns:
        Documents embedded, seconds, and the peaks of the driver and of the largest task, MiB.
    """
    settings = Settings(
        corpus={"uri": str(root / "corpus")},
        model={"name": minilm_path(), "max_tokens": 64},
        index={"uri": str(root / "index"), "widths": [WIDTH], "vector_index": index},
        cluster={"address": "local"},
        run={"progress": "none"},
    )
    with ray_peaks() as peaks:
        summary = run.run(settings, NullModel.of(settings, tokenise=False))
    return {
        "embedded": summary["indexed"],
        "seconds": summary["seconds"],
        "stages": summary["stages"],
        "driver_mib": round(peak_mib("self")),
        "task_mib": round(peaks["task_mib"]),
    }


def nights(ids: int, file_rows: int, index: str) -> dict[str, Any]:
    """Both nights of a corpus, each in a process of its own.

    Returns:
        Results of :func:`night`, and the seconds of the second one without :data:`NOT_COUNTED`.
    """
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, max_tasks_per_child=1) as process:
        root = Path(folder)
        process.submit(write_corpus, root / "corpus", ids, file_rows).result()
        first = process.submit(night, root, index).result()
        print(json.dumps({"ids": ids, "first": first}), flush=True)
        _write(root / "corpus" / "000.parquet", range(file_rows), "changed", CHANGED)
        second = process.submit(night, root, index).result()
    if (first["embedded"], second["embedded"]) != (ids, CHANGED):
        raise RuntimeError(f"{first['embedded']} and {second['embedded']} documents were embedded")
    counted = sum(seconds for stage, seconds in second["stages"].items() if stage not in NOT_COUNTED)
    return {"ids": ids, "first": first, "second": second, "counted_seconds": round(counted, 3)}


def main() -> None:
    """Measures and prints; fails if the second night of the larger corpus costs more than what changed."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--ids", type=int, default=10_000_000, help="documents of the larger corpus")
    command.add_argument("--vector-index", default="none", help="type of the vector index, such as IVF_SQ")
    given = command.parse_args()
    small, large = (nights(ids, given.ids // FILES, given.vector_index) for ids in (given.ids // TIMES, given.ids))
    times = large["counted_seconds"] / small["counted_seconds"]
    peak = max(large[part][process] for part in ("first", "second") for process in ("driver_mib", "task_mib"))
    print(json.dumps({"small": small, "large": large, "times": round(times, 2), "peak_mib": peak}), flush=True)
    if times > MOST_TIMES or large["counted_seconds"] > MOST_SECONDS or peak > MOST_MIB:
        raise SystemExit(f"wanted: {MOST_TIMES} times, {MOST_SECONDS:g} s and {MOST_MIB} MiB at most")


if __name__ == "__main__":
    main()
