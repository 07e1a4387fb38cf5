"""Compares a second night with few changes to the first one, with a fake engine of a given speed.

The cost must follow the change: one document in a hundred is changed, and some files are not touched at all. The fake
engine sleeps, so that only the work around it is measured.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.indexing import plan, run
from indexer.inference.model import open_model
from indexer.settings import IndexSettings, Settings
from indexer.testing.checkpoints import minilm_path
from indexer.testing.corpora import tiny_corpus
from indexer.testing.fakes import FakeModel

FILES = 10

CHANGED = 100
"""One document in so many is changed, all in one file of ten."""


def change(corpus: Path, documents: int) -> int:
    """Changes documents of the first file.

    Returns:
        How many.
    """
    file = corpus / "part-000.parquet"
    table = pq.read_table(file)
    count = documents // CHANGED
    texts = [f"changed: {text}" if row < count else text for row, text in enumerate(table["text"].to_pylist())]
    at = table.schema.get_field_index("text")
    pq.write_table(table.set_column(at, "text", pa.array(texts)), file, row_group_size=2000)
    return count


def night(settings: Settings, seconds_per_token: float) -> dict[str, Any]:
    """One run with the fake engine."""
    model = open_model(settings.model, settings.engine)
    return run.run(settings, FakeModel.of(model, seconds_per_token=seconds_per_token))


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--documents", type=int, default=100_000)
    command.add_argument("--rate", type=float, default=2000.0, help="documents per second of all fake engines together")
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory() as root:
        tiny_corpus(f"{root}/corpus", arguments.documents, files=FILES, rows_per_group=2000)
        settings = Settings(
            corpus={"uri": f"{root}/corpus", "payload": ["kind"]},
            model={"name": minilm_path(), "max_tokens": 128},
            index={"uri": f"{root}/index", "widths": [384, 96]},
            cluster={"address": "local", "workers": 2},
            run={"progress": "none"},
        )
        # Plan another index: a plan records digests, and with them the first night would find its files read already.
        aside = settings.model_copy(update={"index": IndexSettings(uri=f"{root}/aside", widths=[96])})
        tokens = plan.plan(aside)["estimated_tokens"] / arguments.documents
        pace = 2 / (arguments.rate * tokens)
        first = night(settings, pace)
        changed = change(Path(root) / "corpus", arguments.documents)
        second = night(settings, pace)
    if (first["indexed"], second["indexed"]) != (arguments.documents, changed):
        raise RuntimeError(f"{first['indexed']} and {second['indexed']} documents were embedded")
    result = {
        "documents": arguments.documents,
        "changed": changed,
        "first": {"seconds": first["seconds"], "stages": first["stages"]},
        "second": {"seconds": second["seconds"], "stages": second["stages"]},
        "second_over_first": round(second["seconds"] / first["seconds"], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
