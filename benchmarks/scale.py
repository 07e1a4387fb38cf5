"""A corpus of millions of ids against the published index: time by stage, peak memory, estimate for a billion.

Only the work around the model is measured: every document is one token, and all share one vector. The first night
indexes the whole corpus. Before the second night, one file in a hundred is rewritten, with one of its documents in a
hundred changed.
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

CHANGED = 100
"""One document in so many is changed, in one file of :data:`FILES`."""

WIDTH = 32

BILLION = 1_000_000_000


def write_corpus(root: Path, ids: int) -> None:
    """Writes documents with ids of 16 characters and texts of about 20."""
    root.mkdir()
    for number in range(FILES):
        _write(root / f"{number:03d}.parquet", range(number * ids // FILES, (number + 1) * ids // FILES), "text")


def _write(file: Path, rows: range, word: str, changed: int = 0) -> None:
    """Writes one file of documents, the first of them changed."""
    # Ids in the order of a hash, as in most corpora: every file covers the whole range of ids.
    table = {
        "id": [f"{row * 0x9E3779B97F4A7C15 % 2**64:016x}" for row in rows],
        "text": [f"{word if at < changed else 'text'} of document {row}" for at, row in enumerate(rows)],
    }
    pq.write_table(pa.table(table), file, row_group_size=50_000)


def night(root: Path) -> dict[str, Any]:
    """One run, in this process.

    Returns:
        Documents embedded, seconds, and the peaks of the driver and of the largest task, MiB.
    """
    settings = Settings(
        corpus={"uri": str(root / "corpus")},
        model={"name": minilm_path(), "max_tokens": 64},
        index={"uri": str(root / "index"), "widths": [WIDTH], "vector_index": "none"},
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


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--ids", type=int, default=10_000_000, help="documents of the corpus")
    ids = command.parse_args().ids
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, max_tasks_per_child=1) as process:
        root = Path(folder)
        process.submit(write_corpus, root / "corpus", ids).result()
        first = process.submit(night, root).result()
        print(json.dumps(first), flush=True)
        rows = range(ids // FILES)
        _write(root / "corpus" / "000.parquet", rows, "changed", len(rows) // CHANGED)
        second = process.submit(night, root).result()
    if (first["embedded"], second["embedded"]) != (ids, len(rows) // CHANGED):
        raise RuntimeError(f"{first['embedded']} and {second['embedded']} documents were embedded")
    per_id = {stage: first["stages"][stage] / ids for stage in ("scan", "compare")}
    core_hours = {stage: round(2 * seconds * BILLION / 3600, 1) for stage, seconds in per_id.items()}
    print(json.dumps({"ids": ids, "first": first, "second": second, "core_hours_for_a_billion": core_hours}))


if __name__ == "__main__":
    main()
