"""Checks vLLM engine arguments by name, without importing vLLM."""

import ast
import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import SettingsError, did_you_mean

if TYPE_CHECKING:
    pass


OWNED = {
    "model": "model.name",
    "tokenizer": "model.name",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "max_model_len": "model.max_tokens",
    "quantization": "model.quantization",
    "hf_overrides": "model.hf_overrides",
    "pooler_config": "model.pooler_config",
    "runner": None,
    "convert": None,
    "load_format": None,
    "trust_remote_code": None,
    "skip_tokenizer_init": None,
    "enable_chunked_prefill": None,
    "disable_log_stats": None,
    "hf_token": "HF_TOKEN in the environment",
}
"""vLLM arguments that the indexer sets itself, with the setting to use instead if there is one."""

NOT_VLLMS = ("packed", "replicas_per_gpu", "slowest")
"""Keys of ``[engine]`` that are not vLLM's. Listed here because settings cannot be imported beside vLLM alone."""


HARMLESS = {
    "where weights and the cache lie and how much memory they take": (
        "gpu_memory_utilization kv_cache_memory_bytes num_gpu_blocks_override block_size cpu_offload_gb "
        "offload_backend offload_group_size offload_num_in_group offload_prefetch_step "
        "enable_cumem_allocator enable_sleep_mode"
    ),
    "which texts share a step: a vector differs by no more than rounding": (
        "max_num_batched_tokens max_num_scheduled_tokens max_num_seqs max_num_active_seqs max_num_queued_reqs "
        "max_num_queued_tokens long_prefill_token_threshold long_prefill_token_threshold_adaptive "
        "scheduler_reserve_full_isl prefill_schedule_interval watermark"
    ),
    "when a step begins": "scheduling_policy scheduler_cls async_scheduling stream_interval",
    "how the same operations are compiled and launched: rounding": (
        "enforce_eager compilation_config optimization_level performance_mode cudagraph_capture_sizes "
        "max_cudagraph_capture_size enable_flashinfer_autotune"
    ),
    "on which devices and processes the same sums are made: rounding": (
        "tensor_parallel_size pipeline_parallel_size distributed_executor_backend disable_custom_all_reduce device_ids "
        "master_addr master_port nnodes node_rank numa_bind numa_bind_nodes numa_bind_cpus distributed_timeout_seconds "
        "cpu_distributed_timeout_seconds disable_nccl_for_dp_synchronization enable_nccl_comm_suspend shutdown_timeout"
    ),
    "how the same files are read": (
        "download_dir safetensors_load_strategy safetensors_prefetch_num_threads safetensors_prefetch_block_size "
        "max_parallel_loading_workers use_tqdm_on_load pt_load_map_location"
    ),
    "what is logged and counted": (
        "served_model_name aggregate_engine_logging show_hidden_metrics_for_version otlp_traces_endpoint "
        "collect_detailed_traces kv_cache_metrics kv_cache_metrics_sample custom_histogram_buckets cudagraph_metrics "
        "enable_layerwise_nvtx_tracing enable_mfu_metrics enable_logging_iteration_details jit_monitor_mode "
        "jit_monitor_verbose profiler_config ray_workers_use_nsight logging_config log_level log_config_file"
    ),
}
"""Arguments that cannot change the meaning of a vector, by reason. Every other one is part of the fingerprint."""

HARMLESS_NAMES = frozenset(" ".join(HARMLESS.values()).split())

PREFIX = "engine."
"""Prefix of an argument's name in a fingerprint."""


def fingerprint_of(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The engine arguments' part of a fingerprint: every argument that is not known to be harmless.

    Args:
        arguments: vLLM engine arguments by name.

    Returns:
        Their values as canonical JSON by ``engine.<name>``. Empty if no argument matters, so that such a fingerprint
        stays the same.
    """
    return {
        f"{PREFIX}{name}": json.dumps(value, sort_keys=True)
        for name, value in sorted(arguments.items())
        if name not in HARMLESS_NAMES
    }


PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""Arguments that ask for several GPUs."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuses engine arguments that vLLM does not have or that the indexer sets itself.

    Args:
        arguments: vLLM engine arguments by name.

    Raises:
        SettingsError: Names the argument and the setting to use instead.
    """
    for name in PARALLEL:
        if str(arguments.get(name, 1)) != "1":  # the engine would wait for GPUs that its worker does not get
            raise SettingsError(f"engine.{name}: a worker has one GPU, which the model has to fit; leave this out")
    for name in arguments:
        if name in OWNED:
            instead = OWNED[name]
            raise SettingsError(f"engine.{name} cannot be set" + (f"; set {instead}" if instead else ""))
        if name not in argument_names():
            known = [f"engine.{argument}" for argument in (*argument_names(), *NOT_VLLMS)]
            hint = did_you_mean(f"engine.{name}", known)
            raise SettingsError(f"engine.{name} is no vLLM engine argument{hint}")


@cache
def argument_names() -> tuple[str, ...]:
    """Names of vLLM's engine arguments, read from its source, since importing vLLM takes 10 s.

    Raises:
        SettingsError: vLLM is not installed.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise SettingsError("vLLM is not installed; install the extra cpu or cuda")
    source = Path(spec.origin).parent / "engine" / "arg_utils.py"
    module = ast.parse(source.read_text(encoding="utf-8"))
    (args,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs")
    return tuple(
        field.target.id
        for field in args.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )
