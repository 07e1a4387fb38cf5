"""One width more for a published index: seconds by stage, and the tokens that it embeds, which are none.

The first night fills a table of the widest vectors, which lie around random centres. The second night adds a narrower
table and cuts its vectors from the first one. Both nights end behind the gates, with their indices built.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support.centred_model import CentredModel
from indexer.indexing import run
from indexer.inference import matryoshka
from indexer.schema import ID, VECTOR
from indexer.settings import Settings
from indexer.testing.checkpoints import qwen3_checkpoint
from indexer.testing.random_weights import SMALL

FILES = 10

COMPARED = 10_000
"""Rows of both tables that are compared."""

MOST_SECONDS = 60.0

CLOSEST = 0.99999
"""Least accepted cosine between a stored vector and the cut of the widest one."""


def write_corpus(root: Path, documents: int) -> None:
    """Writes documents of some 60 characters."""
    root.mkdir()
    for number in range(FILES):
        rows = range(number * documents // FILES, (number + 1) * documents // FILES)
        texts = [f"document {row} of {documents}, which is like no other document" for row in rows]
        table = pa.table({"id": [f"{row:012d}" for row in rows], "text": texts})
        pq.write_table(table, root / f"{number:02d}.parquet", row_group_size=50_000)


def settings_of(root: Path, widths: Iterable[int]) -> Settings:
    """Settings of a night."""
    return Settings(
        corpus={"uri": str(root / "corpus"), "payload": ["text"]},
        model={"name": str(root / "model"), "max_tokens": 64},
        index={"uri": str(root / "index"), "widths": list(widths)},
        cluster={"address": "local"},
        run={"progress": "none"},
    )


def night(root: Path, widths: Iterable[int]) -> dict[str, Any]:
    """One run, in this process."""
    settings = settings_of(root, widths)
    summary = run.run(settings, CentredModel.of(settings))
    kept = ("epoch", "documents", "indexed", "tokens", "seconds", "stages", "tables")
    return {name: summary[name] for name in kept}


def least_cosine(root: Path, width: int, widest: int) -> float:
    """Least cosine between stored vectors of the narrower table and what the widest ones give, of the first ids."""
    found = {}
    for each in (width, widest):
        dataset = lance.dataset(str(root / "index" / f"docs_d{each}.lance"))
        rows = dataset.to_table(columns=[ID, VECTOR], filter=f"{ID} < '{COMPARED:012d}'").sort_by(ID)
        found[each] = rows[VECTOR].combine_chunks().flatten().to_numpy().reshape(len(rows), each)
    return float(np.min(np.sum(matryoshka.cut(found[widest], width) * found[width], axis=1)))


def main() -> None:
    """Measures and prints; fails if the second night embeds, takes too long or stores other vectors."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--documents", type=int, default=1_000_000)
    command.add_argument("--widest", type=int, default=1024)
    command.add_argument("--width", type=int, default=256, help="the width that is added")
    given = command.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, max_tasks_per_child=1) as process:
        root = Path(folder)
        process.submit(write_corpus, root / "corpus", given.documents).result()
        shape = replace(SMALL, hidden=given.widest, layers=1, ordinary_tokens=10_000)
        process.submit(qwen3_checkpoint, root / "model", shape).result()
        first = process.submit(night, root, [given.widest]).result()
        print(json.dumps({"first": first}), flush=True)
        second = process.submit(night, root, [given.widest, given.width]).result()
        least = process.submit(least_cosine, root, given.width, given.widest).result()
    print(json.dumps({"second": second, "least_cosine": round(least, 7)}), flush=True)
    if second["tokens"] or second["seconds"] > MOST_SECONDS or least < CLOSEST:
        raise SystemExit(f"wanted: no token, {MOST_SECONDS:g} s at most and cosines of {CLOSEST} at least")


if __name__ == "__main__":
    main()
