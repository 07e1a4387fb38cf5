"""The vLLM engine in this process: token ids in, an array out, rows in input order. The only door to vLLM.

vLLM is imported when an engine is made, so that a process without one starts fast.
"""

import ast
import difflib
import importlib.util
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from indexer.deadline import deadline
from indexer.errors import IndexerError, SettingsError

if TYPE_CHECKING:
    from vllm import EngineArgs, LLMEngine, PoolingParams

Mode = Literal["embed", "score"]

TASKS: dict[Mode, Literal["embed", "classify"]] = {"embed": "embed", "score": "classify"}

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""The engine runs inside this process: measured on a 4-layer Qwen3, start-up falls from 38 s to 12 s."""

OWNED = {
    "model": "model.name",
    "tokenizer": "model.name",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "max_model_len": "model.max_tokens",
    "runner": None,
    "convert": None,
    "load_format": None,
    "trust_remote_code": None,
    "skip_tokenizer_init": None,
    "enable_chunked_prefill": None,
    "disable_log_stats": None,
    "hf_token": "HF_TOKEN in the environment",
}
"""vLLM arguments that are ours, with the setting that stands for them where there is one."""

RERANKER_OVERRIDES = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
"""Makes a causal Qwen3-Reranker a classifier whose only weight is the "yes" row less the "no" row of its head: the
sigmoid of its output is the softmax over both logits."""

CPU_CACHE_BYTES = 1 << 30
"""KV cache on a CPU machine, where vLLM would take most of the memory for each engine; a batch of 8,192 tokens of the
largest Qwen3-Embedding needs as much."""

CPU_CACHE_BLOCK = 32
"""vLLM's block of 128 tokens hides most shared prefixes of pairs: measured 0 % of tokens reused, 40 % with 32."""

SLOWEST = 10.0
"""Tokens per second below which an engine hangs: the largest Qwen3-Embedding reaches more on two cores."""

GRACE_SECONDS = 60.0
"""What a step may take besides, e.g. to compile."""

TEMPERATURE = 0.7
"""Of what a generator writes: with 0 small models write the same question for many texts."""

NORM_TOLERANCE = 1e-3
SAME_COSINE = 1 - 1e-6
SAME_SCORE = 1e-6


class EngineError(IndexerError):
    """The engine cannot start with these settings on this machine, or gives nonsense."""


class EngineDead(IndexerError):
    """The engine failed while it worked and cannot be used again; its process should end."""


class Engine:
    """A model in vLLM, for vectors or for scores.

    Attributes:
        dimension: Width of the vectors.
        max_tokens: Most ids of one sequence.
        cached_tokens: Tokens so far that were not computed, because an earlier sequence began with the same ones.
    """

    def __init__(
        self,
        path: str,
        *,
        mode: Mode = "embed",
        dtype: str = "auto",
        max_tokens: int,
        canary: Sequence[Sequence[int]],
        canary_second: Sequence[int] | None = None,
        arguments: Mapping[str, Any] | None = None,
        slowest: float = SLOWEST,
    ) -> None:
        """Loads the model and tries it on a few sequences.

        Args:
            path: Local directory of the checkpoint.
            mode: ``embed`` for :meth:`embed`, ``score`` for :meth:`score`.
            dtype: dtype of the computation as vLLM names it; ``auto`` for the checkpoint's own.
            max_tokens: Most ids of one sequence.
            canary: Token ids of at least two texts (or pairs) whose vectors (scores) must differ.
            canary_second: As in :meth:`score`.
            arguments: vLLM engine arguments by their own names; they go before our defaults.
            slowest: Tokens per second. A step of the engine that takes :data:`GRACE_SECONDS` more than its tokens at
                this rate ends the process.

        Raises:
            SettingsError: An argument is not vLLM's, or ours to set.
            EngineError: vLLM refuses the settings or the model, or the canary's result is unusable.
        """
        self._engine = _started(path, mode, dtype, max_tokens, arguments or {})
        from vllm import PoolingParams
        from vllm.inputs.engine import tokens_input

        self.max_tokens = max_tokens
        self.cached_tokens = 0
        self._prompt = tokens_input
        self._params = PoolingParams(task=TASKS[mode])
        self._sequences = 0
        self._broken = False
        self._slowest = slowest
        self.dimension = int(self._engine.model_config.embedding_size)
        # Twice as many as one step takes are always waiting; more would only fill memory.
        scheduler = self._engine.vllm_config.scheduler_config
        self._ahead = 2 * scheduler.max_num_seqs
        self._step_tokens = scheduler.max_num_batched_tokens
        if mode == "embed":
            check_vectors(self.embed(canary), self.dimension)
        else:
            check_scores(self.score(canary, canary_second), bounded=not _is_unbounded(path))

    def embed(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors of sequences.

        Args:
            token_ids: Ids of each sequence, special tokens included.

        Returns:
            Unit vectors, float32, C-contiguous, shape (len(token_ids), dimension), in input order.

        Raises:
            ValueError: A sequence is empty or longer than ``max_tokens``.
            EngineDead: vLLM failed.
        """
        return self._run(token_ids, [self._params] * len(token_ids), self.dimension)

    def score(self, token_ids: Sequence[Sequence[int]], second: Sequence[int] | None = None) -> np.ndarray:
        """Scores of prompts that hold a pair.

        Args:
            token_ids: Ids of each prompt, special tokens included.
            second: Place of the document's first token in each prompt, for models with token types.

        Returns:
            Probability that the document answers the query, float32, shape (len(token_ids),), in input order.

        Raises:
            ValueError: A prompt is empty or longer than ``max_tokens``.
            EngineDead: vLLM failed.
        """
        params = [self._params] * len(token_ids) if second is None else [self._typed(place) for place in second]
        return self._run(token_ids, params, 1)[:, 0]

    def _typed(self, second: int) -> "PoolingParams":
        params = self._params.clone()
        params.extra_kwargs = {"compressed_token_type_ids": second}
        return params

    def _run(self, token_ids: Sequence[Sequence[int]], params: Sequence["PoolingParams"], width: int) -> np.ndarray:
        for ids in token_ids:
            if not 0 < len(ids) <= self.max_tokens:
                raise ValueError(f"a sequence has {len(ids)} token ids; 1 to {self.max_tokens} are possible")
        if self._broken:
            raise EngineDead("vLLM failed before and may still hold sequences of that time")
        results = np.empty((len(token_ids), width), np.float32)
        self._broken = True
        try:
            self._fill(results, token_ids, params)
        except Exception as error:
            raise EngineDead(f"vLLM failed: {_reason(error)}") from error
        self._broken = False
        return results

    def _fill(self, results: np.ndarray, token_ids: Sequence[Sequence[int]], params: Sequence["PoolingParams"]) -> None:
        """Puts the result of each sequence into its row, in whatever order they come."""
        first = self._sequences
        self._sequences += len(token_ids)
        added = done = inside = 0
        while done < len(token_ids):
            while added < len(token_ids) and added - done < self._ahead:
                prompt = self._prompt(list(token_ids[added]))
                self._engine.add_request(str(first + added), prompt, params[added])
                inside += len(token_ids[added])
                added += 1
            with deadline(GRACE_SECONDS + min(inside, self._step_tokens) / self._slowest):
                outputs = self._engine.step()
            for output in outputs:
                row = int(output.request_id) - first
                inside -= len(token_ids[row])
                self.cached_tokens += output.num_cached_tokens or 0
                # bfloat16 has no NumPy type; with vLLM's float32 heads this is no copy.
                results[row] = output.outputs.data.float().numpy().reshape(-1)
                done += 1


class Generator:
    """A language model in vLLM that goes on writing after prompts."""

    def __init__(
        self,
        path: str,
        *,
        dtype: str,
        max_tokens: int,
        written: int,
        ends: Sequence[int],
        arguments: Mapping[str, Any] | None = None,
        slowest: float = SLOWEST,
    ) -> None:
        """Loads the model.

        Args:
            path: Local directory of the checkpoint.
            dtype: dtype of the computation as vLLM names it.
            max_tokens: Most ids of a prompt with what is written.
            written: Most ids written after a prompt.
            ends: Ids after which nothing more is written.
            arguments: As for :class:`Engine`.
            slowest: Likewise.

        Raises:
            SettingsError: An argument is not vLLM's, or ours to set.
            EngineError: vLLM refuses the settings or the model.
        """
        self._engine = _started(path, "write", dtype, max_tokens, arguments or {})
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input

        self._prompt = tokens_input
        self._params = SamplingParams(
            temperature=TEMPERATURE, seed=0, max_tokens=written, stop_token_ids=list(ends), detokenize=False
        )
        self._sequences = 0
        self._slowest = slowest

    def write(self, token_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """What the model writes after each prompt, the same whenever it is asked.

        Args:
            token_ids: Ids of each prompt.

        Returns:
            Ids written, in input order.

        Raises:
            EngineDead: vLLM failed.
        """
        first = self._sequences
        self._sequences += len(token_ids)
        found: dict[int, list[int]] = {}
        try:
            for at, ids in enumerate(token_ids):
                self._engine.add_request(str(first + at), self._prompt(list(ids)), self._params)
            while len(found) < len(token_ids):
                with deadline(GRACE_SECONDS + sum(map(len, token_ids)) / self._slowest):
                    outputs = self._engine.step()
                found |= {
                    int(output.request_id) - first: list(output.outputs[0].token_ids)
                    for output in outputs
                    if output.finished
                }
        except Exception as error:
            raise EngineDead(f"vLLM failed: {_reason(error)}") from error
        return [found[at] for at in range(len(token_ids))]


def check_vectors(vectors: np.ndarray, dimension: int) -> None:
    """Refuses vectors that no working embedding model gives for different texts.

    Args:
        vectors: float32, shape (n, width), n at least 2.
        dimension: Native width of the model.

    Raises:
        EngineError: Wrong width, not finite, not of unit norm, or two vectors are the same.
    """
    if vectors.shape[1] != dimension:
        raise EngineError(f"the model gives vectors of width {vectors.shape[1]}, not {dimension}")
    if not np.isfinite(vectors).all():
        raise EngineError("the model gives vectors that are not finite")
    norms = np.linalg.norm(vectors, axis=1)
    if np.abs(norms - 1).max() > NORM_TOLERANCE:
        raise EngineError(f"the model gives vectors of norm {norms.min():.4f} to {norms.max():.4f}, not 1")
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    if cosines.max() > SAME_COSINE:
        raise EngineError("the model gives the same vector for different texts; its weights were not read as they are")


def check_scores(scores: np.ndarray, *, bounded: bool = True) -> None:
    """Refuses scores that no working reranker gives for different pairs.

    Args:
        scores: float32, shape (n,), n at least 2.
        bounded: Whether the model gives probabilities; some cross-encoders give logits.

    Raises:
        EngineError: Not finite, out of [0, 1], or all the same: 0.5 from a head that was not loaded, 0 from a wrong
            prompt.
    """
    if not np.isfinite(scores).all():
        raise EngineError("the model gives scores that are not finite")
    if bounded and (scores.min() < 0 or scores.max() > 1):
        raise EngineError(f"the model gives scores from {scores.min():.4f} to {scores.max():.4f}, not within 0 to 1")
    if np.ptp(scores) < SAME_SCORE:
        raise EngineError(f"the model gives every pair the score {scores[0]:.4f}; its head or the prompt is wrong")


NOT_VLLMS = ("replicas_per_gpu", "slowest")
"""Keys of ``[engine]`` beside vLLM's arguments; where only vLLM is installed, the settings cannot be asked."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuses engine arguments that vLLM does not know or that are ours.

    Args:
        arguments: vLLM engine arguments by name.

    Raises:
        SettingsError: Names the argument and what to use instead.
    """
    for name in arguments:
        if name in OWNED:
            instead = OWNED[name]
            raise SettingsError(f"engine.{name} cannot be set" + (f"; set {instead}" if instead else ""))
        if name not in argument_names():
            known = (*argument_names(), *NOT_VLLMS)
            matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" (did you mean engine.{matches[0]}?)" if matches else ""
            raise SettingsError(f"engine.{name} is no vLLM engine argument{hint}")


@cache
def argument_names() -> tuple[str, ...]:
    """Names of vLLM's engine arguments, read from its source: importing vLLM takes 10 s, and needs vLLM.

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


def _prepare_process() -> None:
    """Sets what vLLM reads while it is imported; what the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def _started(
    path: str, mode: Literal[Mode, "write"], dtype: str, max_tokens: int, arguments: Mapping[str, Any]
) -> "LLMEngine":
    """vLLM with a model, in this process."""
    check_arguments(arguments)
    _prepare_process()
    from vllm import LLMEngine
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    logging.getLogger("torch").setLevel(logging.ERROR)
    defaults = _defaults(path, mode, on_cpu=current_platform.is_cpu())
    given = {**defaults, **arguments, "model": path, "dtype": dtype, "max_model_len": max_tokens}
    try:
        # Not vllm.LLM: its encode() makes a future and two copies per sequence, and it cannot do without vLLM's own
        # tokenizer. LLM_CLASS gives its batch sizes, those for throughput.
        return LLMEngine.from_engine_args(_engine_args(given), usage_context=UsageContext.LLM_CLASS)
    except IndexerError:
        raise
    except Exception as error:
        raise EngineError(f"vLLM does not start: {_reason(error)}") from error


def _defaults(path: str, mode: Literal[Mode, "write"], *, on_cpu: bool) -> dict[str, Any]:
    """What vLLM is given unless the settings say otherwise.

    Its batch sizes stay: measured on one core with a 4-layer, 256-wide Qwen3, ``max_num_batched_tokens`` of 1,024 to
    8,192 give the same rate, 16,384 some 10 % less, and sorting by length nothing.
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
    if mode == "embed":
        defaults["enable_prefix_caching"] = False  # for pairs vLLM itself knows which models can
    if mode == "score" and _is_causal(path):
        defaults["hf_overrides"] = RERANKER_OVERRIDES
    if on_cpu and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        defaults["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    if on_cpu and mode == "score":
        defaults["block_size"] = CPU_CACHE_BLOCK
    return defaults


def _is_causal(path: str) -> bool:
    """Whether a reranker is a causal language model rather than converted to a classifier."""
    return "ForCausalLM" in (Path(path) / "config.json").read_text(encoding="utf-8")


def _is_unbounded(path: str) -> bool:
    """Whether a cross-encoder gives its logit: sentence-transformers' convention in ``config.json``."""
    return "torch.nn.modules.linear.Identity" in (Path(path) / "config.json").read_text(encoding="utf-8")


def _engine_args(given: Mapping[str, Any]) -> "EngineArgs":
    from vllm import EngineArgs

    return EngineArgs(**given)


def _reason(error: Exception) -> str:
    """One line that says why; of a pydantic error, the first field and its problem."""
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        return f"{field}: {problem['msg']}" if field else problem["msg"].removeprefix("Value error, ")
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
