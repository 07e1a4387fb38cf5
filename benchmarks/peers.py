"""Other ways to the same vectors, each as its own documentation has it."""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.work import MAX_TOKENS, Outcome, Work

ATTENTIONS = ("sdpa", "eager")
BATCHES = (8, 16, 32, 64, 128)
SAMPLE = 512
"""Documents on which the best batch of Transformers is looked for."""

BATCH_OF_RECORD = 32
SMALL_RUN = 64
"""Documents of the run that is subtracted where start-up cannot be told from work."""


def find_transformers(work: Work) -> tuple[str, int]:
    """The attention implementation and, sorted by length, the batch that are fastest on this machine."""
    texts = work.texts[:SAMPLE]
    attention = max(ATTENTIONS, key=lambda name: _rate(_Transformers(work, name), texts, BATCH_OF_RECORD))
    model = _Transformers(work, attention)
    by_length = sorted(texts, key=len)
    return attention, max(BATCHES, key=lambda batch: _rate(model, by_length, batch))


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
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(work.checkpoint, padding_side="left")
        model = AutoModel.from_pretrained(work.checkpoint, dtype=torch.bfloat16, attn_implementation=attention)
        self._model: Any = model.eval().to(self._device)

    def embed(self, texts: Sequence[str], batch: int) -> int:
        """Embeds all texts and gives their tokens."""
        tokens = 0
        vectors = []
        with self._torch.inference_mode():
            for at in range(0, len(texts), batch):
                part = self._tokenizer(
                    list(texts[at : at + batch]),
                    padding=True,
                    truncation=True,
                    max_length=MAX_TOKENS,
                    return_tensors="pt",
                ).to(self._device)
                hidden = self._model(**part).last_hidden_state[:, -1]
                vectors.append(self._torch.nn.functional.normalize(hidden.float(), dim=1).cpu().numpy())
                tokens += int(part["attention_mask"].sum())
        return tokens


def _rate(model: _Transformers, texts: Sequence[str], batch: int) -> float:
    model.embed(texts[:batch], batch)
    start = time.perf_counter()
    return model.embed(texts, batch) / (time.perf_counter() - start)


def _transformers(work: Work, texts: Sequence[str], batch: int) -> Outcome:
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
    model.encode(work.texts[:SMALL_RUN], batch_size=work.batch)
    start = time.perf_counter()
    model.encode(work.texts, batch_size=work.batch, normalize_embeddings=True)
    return Outcome(sum(work.lengths), time.perf_counter() - start, start - begun, {})


def sentence_transformers_pool(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """sentence-transformers with its pool of processes, one per core or GPU."""
    begun = time.perf_counter()
    import torch

    gpus = torch.cuda.device_count()
    devices = [f"cuda:{at}" for at in range(gpus)] or ["cpu"] * len(os.sched_getaffinity(0))
    model = _sentence_transformer(work)
    pool = model.start_multi_process_pool(devices)
    model.encode(work.texts[: SMALL_RUN * len(devices)], pool=pool, batch_size=work.batch)
    start = time.perf_counter()
    model.encode(work.texts, pool=pool, batch_size=work.batch, normalize_embeddings=True)
    seconds = time.perf_counter() - start
    model.stop_multi_process_pool(pool)
    return Outcome(sum(work.lengths), seconds, start - begun, {})


def _sentence_transformer(work: Work) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        work.checkpoint, model_kwargs={"dtype": torch.bfloat16}, processor_kwargs={"padding_side": "left"}
    )
    model.max_seq_length = MAX_TOKENS
    return model


def stock_vllm(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """vLLM as its documentation has it: ``LLM.embed(texts)``."""
    begun = time.perf_counter()
    quiet_vllm()
    from vllm import LLM

    model = LLM(work.checkpoint, runner="pooling", dtype="bfloat16", max_model_len=MAX_TOKENS)
    model.embed(work.texts[:SMALL_RUN], use_tqdm=False)
    start = time.perf_counter()
    model.embed(work.texts, use_tqdm=False)
    return Outcome(sum(work.lengths), time.perf_counter() - start, start - begun, {})


def ray_data(work: Work, number: int) -> Outcome:
    """Ray Data LLM, task embed, from Parquet to Parquet."""
    return _less_start(work, number, lance=False)


def ray_data_lance(work: Work, number: int) -> Outcome:
    """The same into a Lance table through Ray's own writer."""
    return _less_start(work, number, lance=True)


def _less_start(work: Work, number: int, *, lance: bool) -> Outcome:
    """Ray Data starts its engines within the first execution: a small one is subtracted."""
    small = work.first(SMALL_RUN, work.root / f"small-{number}-{lance}")
    quiet_vllm()
    if number == 0:
        _ray_data(small, lance=lance)  # compiles what later starts find compiled
    short = _ray_data(small, lance=lance)
    long = _ray_data(work, lance=lance)
    tokens = sum(work.lengths) - sum(small.lengths)
    return Outcome(tokens, long - short, short, {})


def _ray_data(work: Work, *, lance: bool) -> float:
    import ray
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    target = str(work.root / "ray-data")
    shutil.rmtree(target, ignore_errors=True)
    # More cores than there are: its engine, readers and writers would wait for each other otherwise.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    config = vLLMEngineProcessorConfig(
        model_source=work.checkpoint,
        task_type="embed",
        engine_kwargs={"max_model_len": MAX_TOKENS, "dtype": "bfloat16"},
        concurrency=1,
        batch_size=128,
        accelerator_type=None,
        log_engine_metrics=False,  # they go through Ray Serve, which would be one more package
        placement_group_config={"bundles": [_bundle()]},
        chat_template_stage=False,
        detokenize_stage=False,
    )
    process = build_processor(
        config,
        preprocess=lambda row: {"id": row["id"], "prompt": row["text"]},
        postprocess=lambda row: {"id": row["id"], "vector": row["embeddings"]},
    )
    start = time.perf_counter()
    data = process(ray.data.read_parquet(work.corpus))
    if lance:
        data.write_lance(target)
    else:
        data.write_parquet(target)
    seconds = time.perf_counter() - start
    ray.shutdown()
    return seconds


def _bundle() -> dict[str, float]:
    import torch

    return {"CPU": 1, "GPU": 1} if torch.cuda.is_available() else {"CPU": len(os.sched_getaffinity(0))}


def lancedb_registry(work: Work, number: int) -> Outcome:
    """LanceDB's embedding functions with sentence-transformers, adding rows."""
    begun = time.perf_counter()
    import lancedb
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    registry: Any = get_registry()
    model = registry.get("sentence-transformers").create(name=work.checkpoint, device="cpu")
    width = model.ndims()
    fields = {"id": str, "text": str, "vector": Vector(width)}
    document: Any = type(
        "Document",
        (LanceModel,),
        {"__annotations__": fields, "text": model.SourceField(), "vector": model.VectorField()},
    )
    table = lancedb.connect(str(work.root / f"registry-{number}")).create_table("docs", schema=document)
    table.add([{"id": "warm", "text": text} for text in work.texts[:SMALL_RUN]])
    start = time.perf_counter()
    rows = [{"id": str(at), "text": text} for at, text in enumerate(work.texts)]
    for at in range(0, len(rows), SAMPLE):
        table.add(rows[at : at + SAMPLE])
    return Outcome(sum(work.lengths), time.perf_counter() - start, start - begun, {})


def quiet_vllm() -> None:
    """Settings that vLLM reads while it is imported: few words, and memory for more than one engine."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
