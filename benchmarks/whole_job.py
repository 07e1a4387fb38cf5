"""The whole job against pure Transformers and against its own engines: tokens per second, as ratios from one run.

Three contenders read the same documents with the same random-weight Qwen3 checkpoint in the same dtype, in alternation:

- ``transformers``: batches of 32 in arrival order, padded, all cores; tokenisation included, vectors kept in memory;
- ``floor``: the job's own workers fed ready-made token ids, the vectors thrown away;
- ``job``: from Parquet files to committed tables at four widths.

Start-up (imports, Ray, loading the model) is left out for each. Tokens are those of the documents, end token included;
padding counts for nothing.
"""

import argparse
import json
import multiprocessing
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexer import indexing
from indexer.cluster import Cluster
from indexer.corpus import Shard
from indexer.engine import Engine
from indexer.epochs import Receipt
from indexer.model import Model, open_model
from indexer.settings import EngineSettings, ModelSettings, Settings
from indexer.testing import qwen3_checkpoint, random_texts

WIDTHS = [256, 128, 64, 32]
MAX_TOKENS = 512
BATCH = 32
FLOOR_SHARDS = 40
FILES = 6


@dataclass(frozen=True)
class Work:
    """What every contender gets: the checkpoint, the corpus and its token ids on disk."""

    root: Path
    documents: int

    @property
    def checkpoint(self) -> str:
        """Directory of the model."""
        return str(self.root / "model")

    @property
    def model(self) -> Model:
        """The model as the job runs it."""
        return open_model(ModelSettings(name=self.checkpoint, max_tokens=MAX_TOKENS), EngineSettings())

    @property
    def shards(self) -> list[Shard]:
        """Shards of the floor: equal numbers of documents."""
        size = -(-self.documents // FLOOR_SHARDS)
        return [Shard(str(at), (), min(size, self.documents - at), 0) for at in range(0, self.documents, size)]


class FloorPipeline:
    """A worker that only embeds: its token ids are in memory before the clock starts."""

    def __init__(self, make_engine: Callable[[], Engine], ids: list[list[int]]) -> None:
        """Starts the engine, in a thread of its own as the job does, and takes the ids of all documents."""
        self._thread = ThreadPoolExecutor(1)
        self._engine = self._thread.submit(make_engine).result()
        self._ids = ids

    def run(self, shard: Shard) -> Receipt:
        """Embeds a shard and forgets the vectors."""
        start = int(shard.shard_id)
        ids = self._ids[start : start + shard.documents]
        self._thread.submit(self._engine.embed, ids).result()
        tokens = sum(map(len, ids))
        return Receipt(
            shard_id=shard.shard_id,
            fragments={},
            documents=shard.documents,
            chunks=shard.documents,
            quarantined=0,
            truncated=0,
            tokens=tokens,
            sampled_cosine=None,
            seconds={},
        )


@dataclass(frozen=True)
class MakeFloor:
    """Builds the floor in a worker's process."""

    work: Work

    def __call__(self) -> FloorPipeline:
        """Starts the engine and reads the ids."""
        ids = pickle.loads((self.work.root / "ids.pickle").read_bytes())  # noqa: S301  # written by this script
        return FloorPipeline(self.work.model.engine, ids)


def prepare(root: Path, documents: int) -> Work:
    """Writes the checkpoint, the corpus and the token ids."""
    work = Work(root, documents)
    qwen3_checkpoint(work.checkpoint)
    texts = random_texts(documents)
    (root / "corpus").mkdir()
    rows = -(-documents // FILES)
    for number in range(FILES):
        part = range(number * rows, min((number + 1) * rows, documents))
        table = pa.table({"id": [f"{row:06d}" for row in part], "text": [texts[row] for row in part]})
        pq.write_table(table, root / "corpus" / f"{number}.parquet", row_group_size=250)
    ids = work.model.tokenizer.documents(texts).ids
    (root / "ids.pickle").write_bytes(pickle.dumps(ids))
    (root / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return work


def run_transformers(work: Work) -> float:
    """Tokens per second of Transformers, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_transformers, (work,))


def _transformers(work: Work) -> float:
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = json.loads((work.root / "texts.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(work.checkpoint, padding_side="left")
    model = AutoModel.from_pretrained(work.checkpoint, dtype=torch.bfloat16).eval()
    vectors = []
    tokens = 0
    with torch.inference_mode():
        _last_hidden(model, tokenizer, texts[:BATCH])
        start = time.perf_counter()
        for at in range(0, len(texts), BATCH):
            hidden, count = _last_hidden(model, tokenizer, texts[at : at + BATCH])
            vectors.append(torch.nn.functional.normalize(hidden.float(), dim=1).numpy())
            tokens += count
        return tokens / (time.perf_counter() - start)


def _last_hidden(model: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[Any, int]:
    batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    return model(**batch).last_hidden_state[:, -1], int(batch["attention_mask"].sum())


def run_floor(work: Work, settings: Settings) -> float:
    """Tokens per second of the engines alone."""
    with Cluster(settings.cluster) as cluster:
        cluster.start_workers(MakeFloor(work), len(work.shards))  # type: ignore[arg-type]
        start = time.perf_counter()
        tokens = sum(done.tokens for done in cluster.run(work.shards, retries=0) if isinstance(done, Receipt))
        return tokens / (time.perf_counter() - start)


def run_job(work: Work, settings: Settings) -> tuple[float, dict[str, float]]:
    """Tokens per second of the whole job without start-up, and its seconds per stage."""
    summary = indexing.run(settings)
    stages = summary["stages"]
    seconds = summary["seconds"] - stages["connect"] - stages["start"]
    if summary["indexed"] != work.documents:
        raise RuntimeError(f"{summary['indexed']} of {work.documents} documents were indexed")
    return summary["tokens"] / seconds, stages


def settings_of(work: Work, number: int) -> Settings:
    """Settings of a job into a new index."""
    return Settings(
        corpus={"uri": str(work.root / "corpus")},
        model={"name": work.checkpoint, "max_tokens": MAX_TOKENS},
        index={"uri": str(work.root / f"index-{number}"), "widths": WIDTHS},
        cluster={"address": "local"},
        run={"progress": "none"},
    )


def main() -> None:
    """Measures and prints."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--documents", type=int, default=6000, help="documents of 10 to 120 words")
    command.add_argument("--rounds", type=int, default=3, help="rounds of all contenders; medians are reported")
    arguments = command.parse_args()
    rates: dict[str, list[float]] = {"transformers": [], "floor": [], "job": []}
    stages: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(Path(folder), arguments.documents)
        for number in range(arguments.rounds):
            settings = settings_of(work, number)
            rates["transformers"].append(run_transformers(work))
            rates["floor"].append(run_floor(work, settings))
            rate, stages = run_job(work, settings)
            rates["job"].append(rate)
            print(f"round {number + 1}:", {name: round(values[-1]) for name, values in rates.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "documents": arguments.documents,
        "tokens_per_second": {name: [round(value) for value in values] for name, values in rates.items()},
        "job_over_transformers": round(medians["job"] / medians["transformers"], 3),
        "job_over_floor": round(medians["job"] / medians["floor"], 3),
        "job_stages_seconds": stages,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
