"""Other projects' ways to the same vectors, each after its own documentation."""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq
from lance import dataset

from benchmarks.support import machine
from benchmarks.support.workload import Outcome, Work

ATTENTIONS = ("sdpa", "eager")

BATCHES = (8, 16, 32, 64, 128)

SAMPLE = 512

SAMPLE_SECONDS = 8.0
"""Time for the documents on which the best batch of Transformers is searched; :data:`SAMPLE` caps their number."""

BATCH_OF_RECORD = 32

ADDED_AT_ONCE = 512

WARM = 64
"""Documents embedded before the clock starts."""

PORTION_BYTES = 1 << 20
"""Size of Ray Data's blocks: with its default of 128 MiB all documents would leave the engine at the same moment."""

SAME_BATCH_SECONDS = 0.2
"""Documents that leave Ray Data's engine so soon after the first ones were in the same batch."""


def find_transformers(work: Work) -> tuple[str, int]:
    """The fastest attention implementation and, for texts sorted by length, the fastest batch on this machine."""
    texts = work.texts[: _sample(work)]
    attention = max(ATTENTIONS, key=lambda name: _rate(_Transformers(work, name), texts, BATCH_OF_RECORD))
    model = _Transformers(work, attention)
    by_length = sorted(texts, key=len)
    return attention, max(BATCHES, key=lambda batch: _rate(model, by_length, batch))


def _sample(work: Work) -> int:
    """Number of documents to tune on, by a first measurement."""
    model = _Transformers(work, work.attention)
    rate = _rate(model, work.texts[:BATCH_OF_RECORD], BATCH_OF_RECORD)
    return min(SAMPLE, max(BATCH_OF_RECORD, int(rate * SAMPLE_SECONDS / sum(work.lengths) * work.documents)))


def transformers_arrival(work: Work, number: int) -> Outcome:  # noqa: ARG001  # every contender is told its round
    """Transformers in batches of 32 in arrival order, padded: the baseline of record."""
    return _transformers(work, work.texts, BATCH_OF_RECORD)


def transformers_sorted(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """Transformers in its best batch, texts sorted by length first."""
    return _transformers(work, sorted(work.texts, key=len), work.batch)


class _Transformers:
    """The model card's way: last token of left-padded batches, unit norm."""

    def __init__(self, work: Work, attention: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch = torch
        self._max_tokens = work.max_tokens
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(work.checkpoint, padding_side="left")
        dtype = getattr(torch, work.dtype)
        model = AutoModel.from_pretrained(work.checkpoint, dtype=dtype, attn_implementation=attention)
        self._model: Any = model.eval().to(self._device)

    def embed(self, texts: Sequence[str], batch: int) -> int:
        """Embeds all texts and returns the number of their tokens."""
        tokens = 0
        vectors = []
        with self._torch.inference_mode():
            for at in range(0, len(texts), batch):
                part = self._tokenizer(
                    list(texts[at : at + batch]),
                    padding=True,
                    truncation=True,
                    max_length=self._max_tokens,
                    return_tensors="pt",
                ).to(self._device)
                hidden = self._model(**part).last_hidden_state[:, -1]
                vectors.append(self._torch.nn.functional.normalize(hidden.float(), dim=1).cpu().numpy())
                tokens += int(part["attention_mask"].sum())
        return tokens


def _rate(model: _Transformers, texts: Sequence[str], batch: int) -> float:
    """Tokens per second, after a first batch."""
    model.embed(texts[:batch], batch)
    start = time.perf_counter()
    return model.embed(texts, batch) / (time.perf_counter() - start)


def _transformers(work: Work, texts: Sequence[str], batch: int) -> Outcome:
    """Embeds texts in their order and times it."""
    begun = time.perf_counter()
    model = _Transformers(work, work.attention)
    model.embed(texts[:batch], batch)
    start = time.perf_counter()
    tokens = model.embed(texts, batch)
    return Outcome(tokens, time.perf_counter() - start, start - begun, {})


def sentence_transformers(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """sentence-transformers, ``encode`` in one process."""
    begun = time.perf_counter()
    model = _sentence_transformer(work)
    model.encode(work.texts[:WARM], batch_size=work.batch)
    start = time.perf_counter()
    model.encode(work.texts, batch_size=work.batch, normalize_embeddings=True)
    return Outcome(sum(work.lengths), time.perf_counter() - start, start - begun, {})


def sentence_transformers_pool(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """sentence-transformers with its pool of processes, one per core or GPU."""
    begun = time.perf_counter()
    devices = [f"cuda:{at}" for at in range(machine.gpus())] or ["cpu"] * len(os.sched_getaffinity(0))
    model = _sentence_transformer(work)
    pool = model.start_multi_process_pool(devices)
    model.encode(work.texts[: WARM * len(devices)], pool=pool, batch_size=work.batch)
    start = time.perf_counter()
    model.encode(work.texts, pool=pool, batch_size=work.batch, normalize_embeddings=True)
    seconds = time.perf_counter() - start
    model.stop_multi_process_pool(pool)
    return Outcome(sum(work.lengths), seconds, start - begun, {})


def _sentence_transformer(work: Work) -> Any:
    """The model in sentence-transformers, padded on the left."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        work.checkpoint,
        model_kwargs={"dtype": getattr(torch, work.dtype)},
        processor_kwargs={"padding_side": "left"},
    )
    model.max_seq_length = work.max_tokens
    return model


def stock_vllm(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """vLLM after its documentation: ``LLM.embed(texts)``."""
    begun = time.perf_counter()
    quiet_vllm()
    from vllm import LLM

    model = LLM(work.checkpoint, runner="pooling", **work.vllm_arguments)
    model.embed(work.texts[:WARM], use_tqdm=False)
    start = time.perf_counter()
    model.embed(work.texts, use_tqdm=False)
    return Outcome(sum(work.lengths), time.perf_counter() - start, start - begun, {})


def ray_data(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """Ray Data LLM, task embed, from Parquet to Parquet."""
    return _ray_data(work, lance=False)


def ray_data_lance(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """The same into a Lance table by lance-ray."""
    import lance_ray  # noqa: F401  # absent: say so before an engine starts

    return _ray_data(work, lance=True)


def _ray_data(work: Work, *, lance: bool) -> Outcome:
    """Ray Data starts its engine within the execution: the clock starts when the first documents leave it."""
    import ray
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    quiet_vllm()
    target = str(work.root / "ray-data")
    shutil.rmtree(target, ignore_errors=True)
    # Declare more cores than exist: otherwise its engine, readers and writers would wait for each other.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = PORTION_BYTES
    config = vLLMEngineProcessorConfig(
        model_source=work.checkpoint,
        task_type="embed",
        engine_kwargs=work.vllm_arguments,
        concurrency=max(1, machine.gpus()),
        batch_size=128,
        accelerator_type=None,
        log_engine_metrics=False,  # they need Ray Serve, one more package
        placement_group_config={"bundles": [_bundle()]},
        chat_template_stage=False,
        detokenize_stage=False,
    )
    process = build_processor(
        config,
        preprocess=lambda row: {"id": row["id"], "prompt": row["text"]},
        postprocess=lambda row: {"id": row["id"], "vector": row["embeddings"], "embedded": time.time()},
    )
    begun = time.time()
    _write(process(ray.data.read_parquet(work.corpus)), target, lance=lance)
    end = time.time()
    ray.shutdown()
    columns = ["id", "embedded"]
    found = dataset(target).to_table(columns=columns) if lance else pq.read_table(target, columns=columns)
    written = found.to_pydict()
    first = min(written["embedded"]) + SAME_BATCH_SECONDS
    tokens = sum(
        work.lengths[int(name)] for name, at in zip(written["id"], written["embedded"], strict=True) if at > first
    )
    if not tokens:
        raise RuntimeError("too few documents for a rate: all left the engine in one batch; raise --documents")
    return Outcome(tokens, end - first, first - begun, {})


def _write(data: Any, target: str, *, lance: bool) -> None:
    """Writes a Ray dataset as Lance or Parquet."""
    if lance:
        from lance_ray import write_lance

        write_lance(data, target)
    else:
        data.write_parquet(target)


def _bundle() -> dict[str, float]:
    """Resources of Ray Data's engine: one GPU, or all cores."""
    import torch

    return {"CPU": 1, "GPU": 1} if torch.cuda.is_available() else {"CPU": len(os.sched_getaffinity(0))}


def lancedb_registry(work: Work, number: int) -> Outcome:
    """LanceDB's embedding functions with sentence-transformers, adding rows."""
    begun = time.perf_counter()
    import lancedb
    import torch
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    registry: Any = get_registry()
    model = registry.get("sentence-transformers").create(
        name=work.checkpoint, device="cuda" if torch.cuda.is_available() else "cpu"
    )
    width = model.ndims()
    fields = {"id": str, "text": str, "vector": Vector(width)}
    document: Any = type(
        "Document",
        (LanceModel,),
        {"__annotations__": fields, "text": model.SourceField(), "vector": model.VectorField()},
    )
    table = lancedb.connect(str(work.root / f"registry-{number}")).create_table("docs", schema=document)
    table.add([{"id": "warm", "text": text} for text in work.texts[:WARM]])
    start = time.perf_counter()
    rows = [{"id": str(at), "text": text} for at, text in enumerate(work.texts)]
    for at in range(0, len(rows), ADDED_AT_ONCE):
        table.add(rows[at : at + ADDED_AT_ONCE])
    return Outcome(sum(work.lengths), time.perf_counter() - start, start - begun, {})


def quiet_vllm() -> None:
    """Sets the environment that vLLM reads at import: little output, and memory for more than one engine."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
