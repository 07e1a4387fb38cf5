"""Starts vLLM in this process with our defaults."""

import gc
import json
import logging
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from indexer import gpu_siblings
from indexer.errors import EngineError, IndexerError, free_frames
from indexer.inference.engine_arguments import check_arguments
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.process_state import frozen_heap, living, store_in_memory
from indexer.steps import step

if TYPE_CHECKING:
    from vllm import EngineArgs, LLMEngine, PoolingParams


Mode = Literal["embed", "score", "tokens"]

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""The engine runs inside this process: measured on a 4-layer Qwen3, start-up falls from 38 s to 12 s."""

RERANKER_OVERRIDES = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
"""Makes a causal Qwen3-Reranker a classifier whose only weight is the "yes" row less the "no" row of its head: the
sigmoid of its output is the softmax over both logits."""

XLM_R_OVERRIDES = {"position_embedding_type": "absolute"}
"""vLLM 0.32 asks for it, and Transformers 5 neither writes it nor has a default, as earlier versions did."""

CPU_CACHE_BYTES = 1 << 30
"""KV cache on a CPU machine, where vLLM would reserve most of the memory for each engine. A batch of 8,192 tokens of
the largest Qwen3-Embedding needs this much."""

CPU_CACHE_TOKENS = 1 << 16
"""Tokens for which a small model's KV cache has space: vLLM fills a cache with zeros, 0.4 s of CPU for each GiB."""

CPU_CACHE_SEQUENCES = 4
"""Sequences of full length for which it has space at least: sharing prefixes takes three."""

FLOAT32_BYTES = 4

CPU_CACHE_BLOCK = 32
"""Tokens per block. vLLM's 128 miss most shared prefixes of pairs: measured 0 % of tokens reused, 40 % with 32."""

GPU_SHARE = 0.9
"""Share of a GPU's memory that the engines on it take together; vLLM's own default counts memory that others use."""

MEMORY = "gpu_memory_utilization"
"""vLLM's argument for the share of a GPU's memory that an engine takes."""

SHORT_TOKENS = 16
"""Tokens of a short sequence, of which a step on a GPU may be full."""

LEAST_SEQUENCES = 256
"""Sequences of a step that vLLM itself allows at least."""

GRACE_SECONDS = 60.0
"""Seconds that a step may take beside its tokens, e.g. to compile."""

CONTEXT_LOST = "after most errors of CUDA a process cannot use its GPU again; start another one if this comes back"
"""What to do about an error that torch calls a CUDA error; running out of memory is none."""


def _prepare_process() -> None:
    """Sets the environment that vLLM reads at import; the user's own values stay."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def _import_vllm() -> "type[LLMEngine]":
    """vLLM's engine. The first call of a process imports what takes long."""
    from vllm import LLMEngine

    return LLMEngine


def start_engine(spec: EngineSpec, mode: Literal[Mode, "write"]) -> "LLMEngine":
    """Starts vLLM with a model in this process.

    Args:
        spec: The model and how it is computed.
        mode: The engine's task.

    Raises:
        SettingsError: An argument is not vLLM's, or ours to set.
        EngineError: vLLM refuses the settings or the model.
    """
    check_arguments(spec.arguments)
    _prepare_process()
    with step("importing vLLM"), frozen_heap():
        # vLLM keeps an error of its import (torchcodec is missing), and with it the frames of all who wait for it. The
        # first engine of a process would be among what they hold, and never be freed.
        with ThreadPoolExecutor(1, thread_name_prefix="import") as thread:
            llm_engine = thread.submit(_import_vllm).result()
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext

    logging.getLogger("torch").setLevel(logging.ERROR)
    defaults = _defaults(spec.path, mode, spec.max_tokens, on_cpu=current_platform.is_cpu())
    ours = {"model": spec.path, "dtype": spec.dtype, "max_model_len": spec.max_tokens}
    given = {**defaults, **spec.arguments, **spec.overrides, **ours}
    if "hf_overrides" in defaults:  # a causal reranker stays a classifier, whatever the user overrides
        given["hf_overrides"] = {**defaults["hf_overrides"], **spec.overrides.get("hf_overrides", {})}
    try:
        if not current_platform.is_cpu():
            given = for_gpu(spec, mode, given)
        # Not vllm.LLM: its encode() makes a future and two copies per sequence, and it always loads vLLM's own
        # tokenizer. LLM_CLASS chooses the same batch sizes, for throughput.
        with step(_loading(given)), store_in_memory():
            return llm_engine.from_engine_args(_engine_args(given), usage_context=UsageContext.LLM_CLASS)
    except IndexerError:
        raise
    except Exception as error:
        free_frames(error)  # they hold what vLLM had loaded
        raise EngineError(f"vLLM does not start: {failure_reason(error)}") from error


def _loading(given: Mapping[str, Any]) -> str:
    """What vLLM does while it starts with these arguments."""
    compiles = not given.get("enforce_eager") and given.get("optimization_level") != 0
    return "loading the weights and compiling the model" if compiles else "loading the weights"


def pooling_params(task: str) -> "PoolingParams":
    """Pooling parameters of every sequence.

    Vectors are always normalised, even if the checkpoint leaves that to cosine similarity.
    """
    from vllm import PoolingParams

    return PoolingParams(task=task, use_activation=None if task == "classify" else True)


def _defaults(path: str, mode: Literal[Mode, "write"], max_tokens: int, *, on_cpu: bool) -> dict[str, Any]:
    """Default arguments for vLLM; the settings override them.

    vLLM's batch sizes stay. Measured on one core with a 4-layer, 256-wide Qwen3: ``max_num_batched_tokens`` of 1,024 to
    8,192 give the same rate, 16,384 some 10 % less. Sorting by length gains nothing.
    """
    defaults: dict[str, Any] = {
        "runner": "generate" if mode == "write" else "pooling",
        "trust_remote_code": False,
        "load_format": "safetensors",
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if mode != "write":
        defaults["enable_chunked_prefill"] = False
    if mode in {"embed", "tokens"}:
        defaults["enable_prefix_caching"] = False  # for pairs vLLM decides by model
    config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    if mode == "score" and _is_causal(config):
        defaults["hf_overrides"] = RERANKER_OVERRIDES
    if config.get("model_type") == "xlm-roberta" and "position_embedding_type" not in config:
        defaults["hf_overrides"] = XLM_R_OVERRIDES
    if on_cpu and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        defaults["kv_cache_memory_bytes"] = cpu_cache_bytes(config, max_tokens)
    if on_cpu and mode == "score":
        defaults["block_size"] = CPU_CACHE_BLOCK
    return defaults


def cpu_cache_bytes(config: Mapping[str, Any], max_tokens: int) -> int:
    """Bytes of a KV cache on a CPU machine: :data:`CPU_CACHE_BYTES`, less for small models.

    Args:
        config: Content of the checkpoint's ``config.json``.
        max_tokens: Cap on the ids of one sequence.
    """
    tokens = max(CPU_CACHE_TOKENS, CPU_CACHE_SEQUENCES * max_tokens)
    heads, hidden = config.get("num_attention_heads", 0), config.get("hidden_size", 0)
    size = config.get("head_dim") or hidden // max(heads, 1)
    token = 2 * config.get("num_hidden_layers", 0) * config.get("num_key_value_heads", heads) * size * FLOAT32_BYTES
    return min(CPU_CACHE_BYTES, tokens * token) or CPU_CACHE_BYTES


def for_gpu(spec: EngineSpec, mode: Literal[Mode, "write"], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with what depends on this process's GPU and on who else uses it.

    Args:
        spec: The model and how it is computed.
        mode: The engine's task.
        given: The arguments so far. They stay, but for a share of memory that is not free.
    """
    share = memory_share(*_gpu_memory(), spec.gpu_engines, _siblings(), given.get(MEMORY))
    if mode in {"write", "tokens"} or spec.packed == "off":
        return {**given, MEMORY: share}
    return {"max_num_seqs": most_sequences(given, spec.max_tokens), **given, MEMORY: share}


def most_sequences(given: Mapping[str, Any], max_tokens: int) -> int:
    """Sequences of a packed step: as many short ones as its tokens allow.

    vLLM's own default of 256 to 1,024, which sizes buffers of its attention kernels, is for requests that decode.

    Args:
        given: vLLM engine arguments.
        max_tokens: Cap on the ids of one sequence.
    """
    tokens = given.get("max_num_batched_tokens")
    if tokens is None:
        from vllm import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        tokens = max(max_tokens, EngineArgs.get_batch_defaults(1)[0][UsageContext.LLM_CLASS])
    return min(int(tokens), max(LEAST_SEQUENCES, int(tokens) // SHORT_TOKENS))


def memory_share(free: int, total: int, engines: int, started: int = 0, wanted: float | None = None) -> float:
    """Share of a GPU's memory for one engine: its part of the whole, and of what is free.

    vLLM refuses to start where less is free than the share it is given.

    Args:
        free: Bytes that nobody uses now.
        total: Bytes of the GPU.
        engines: Engines that share the GPU.
        started: Those of them that have taken their part already.
        wanted: The configured share. It is a cap: where others use the GPU, less may be free for each engine to come.
    """
    to_come = max(1, engines - started)
    if wanted is not None and (wanted > 1 or wanted * total * to_come <= free):  # vLLM refuses what is above 1
        return wanted
    return round(GPU_SHARE * min(1 / engines, free / total / to_come), 3)


def _siblings() -> int:
    """Engines that share this process's GPU and have started: of this process, and of its run's other processes."""
    return living() + gpu_siblings.noted()


def _gpu_memory() -> tuple[int, int]:
    """Free bytes and all bytes of this process's GPU."""
    import torch

    # What this process has freed counts as used until torch gives it back, which vLLM asks for only later.
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()


def _is_causal(config: Mapping[str, Any]) -> bool:
    """Whether a reranker is a causal language model and not converted to a classifier."""
    return any("ForCausalLM" in name for name in config.get("architectures") or [])


def _engine_args(given: Mapping[str, Any]) -> "EngineArgs":
    """vLLM's own record of the arguments, which checks them."""
    from vllm import EngineArgs

    return EngineArgs(**given)


def failure_reason(error: Exception) -> str:
    """One line with the reason; for a pydantic error, the first field and its problem.

    For an error of CUDA it says too what may help: most of them make the GPU unusable for the process.
    """
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        return f"{field}: {problem['msg']}" if field else problem["msg"].removeprefix("Value error, ")
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"{reason} ({CONTEXT_LOST})" if "CUDA error" in reason else reason
