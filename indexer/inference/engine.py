"""The vLLM engine in this process: token ids in, an array out, rows in input order. The only door to vLLM.

vLLM is imported when an engine is made, so that a process without one starts fast.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from indexer.errors import EngineDead
from indexer.inference.canary import check_scores, check_vectors
from indexer.inference.deadline import deadline
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import GRACE_SECONDS, Mode, failure_reason, start_engine

if TYPE_CHECKING:
    from vllm import PoolingParams


class Embedder(Protocol):
    """What the pipeline needs of an engine in embed mode."""

    dimension: int

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        """Unit vectors, float32, shape (len(sequences), dimension), in input order."""
        ...


TASKS: dict[Mode, Literal["embed", "classify"]] = {"embed": "embed", "score": "classify"}


class Engine:
    """A model in vLLM, for vectors or for scores.

    Attributes:
        dimension: Width of the vectors.
        pooling: vLLM's name of how tokens become a vector.
        max_tokens: Most ids of one sequence.
        cached_tokens: Tokens so far that were not computed, because an earlier sequence began with the same ones.
    """

    def __init__(
        self,
        spec: EngineSpec,
        canary: TokenSequences,
        *,
        mode: Mode = "embed",
        canary_second: np.ndarray | None = None,
    ) -> None:
        """Loads the model and tries it on a few sequences.

        Args:
            spec: The model and how it is computed.
            canary: Token ids of at least two texts (or pairs) whose vectors (scores) must differ.
            mode: ``embed`` for :meth:`embed`, ``score`` for :meth:`score`.
            canary_second: As in :meth:`score`.

        Raises:
            SettingsError: An argument is not vLLM's, or ours to set.
            EngineError: vLLM refuses the settings or the model, or the canary's result is unusable.
        """
        self._engine = start_engine(spec, mode)
        from vllm import PoolingParams
        from vllm.inputs.engine import tokens_input

        self.max_tokens = spec.max_tokens
        self.cached_tokens = 0
        self._prompt = tokens_input
        # Vectors are always made unit vectors, also where the checkpoint leaves that to cosine similarity.
        self._params = PoolingParams(task=TASKS[mode], use_activation=True if mode == "embed" else None)
        self._sequences = 0
        self._broken = False
        self._slowest = spec.slowest
        self.dimension = int(self._engine.model_config.embedding_size)
        self.pooling = str(getattr(self._engine.model_config.pooler_config, "seq_pooling_type", None))
        # Twice as many as one step takes are always waiting; more would only fill memory.
        scheduler = self._engine.vllm_config.scheduler_config
        self._ahead = 2 * scheduler.max_num_seqs
        self._step_tokens = scheduler.max_num_batched_tokens
        if mode == "embed":
            check_vectors(self.embed(canary), self.dimension)
        else:
            check_scores(self.score(canary, canary_second), bounded=not _is_unbounded(spec.path))

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        """Vectors of sequences.

        Args:
            sequences: Their token ids, special tokens included.

        Returns:
            Unit vectors, float32, C-contiguous, shape (len(sequences), dimension), in input order.

        Raises:
            ValueError: A sequence is empty or longer than ``max_tokens``.
            EngineDead: vLLM failed.
        """
        return self._run(sequences, [self._params] * len(sequences), self.dimension)

    def score(self, sequences: TokenSequences, second: np.ndarray | None = None) -> np.ndarray:
        """Scores of prompts that hold a pair.

        Args:
            sequences: Token ids of the prompts, special tokens included.
            second: int32, shape (len(sequences),): place of the document's first token in each prompt, for models with
                token types.

        Returns:
            Probability that the document answers the query, float32, shape (len(sequences),), in input order.

        Raises:
            ValueError: A prompt is empty or longer than ``max_tokens``.
            EngineDead: vLLM failed.
        """
        places = [] if second is None else second.tolist()
        params = [self._typed(place) for place in places] or [self._params] * len(sequences)
        return self._run(sequences, params, 1)[:, 0]

    def _typed(self, second: int) -> "PoolingParams":
        params = self._params.clone()
        params.extra_kwargs = {"compressed_token_type_ids": second}
        return params

    def _run(self, sequences: TokenSequences, params: Sequence["PoolingParams"], width: int) -> np.ndarray:
        for length in (sequences.lengths.min(initial=1), sequences.lengths.max(initial=1)):
            if not 0 < length <= self.max_tokens:
                raise ValueError(f"a sequence has {length} token ids; 1 to {self.max_tokens} are possible")
        if self._broken:
            raise EngineDead("the engine failed before and cannot be used again; start another one")
        results = np.empty((len(sequences), width), np.float32)
        self._broken = True
        try:
            self._fill(results, sequences, params)
        except Exception as error:
            raise EngineDead(f"vLLM failed: {failure_reason(error)}") from error
        self._broken = False
        return results

    def _fill(self, results: np.ndarray, sequences: TokenSequences, params: Sequence["PoolingParams"]) -> None:
        """Puts the result of each sequence into its row, in whatever order they come."""
        first = self._sequences
        self._sequences += len(sequences)
        added = done = inside = 0
        while done < len(sequences):
            while added < len(sequences) and added - done < self._ahead:
                prompt = self._prompt(sequences[added].tolist())
                self._engine.add_request(str(first + added), prompt, params[added])
                inside += int(sequences.lengths[added])
                added += 1
            with deadline(GRACE_SECONDS + min(inside, self._step_tokens) / self._slowest):
                outputs = self._engine.step()
            for output in outputs:
                row = int(output.request_id) - first
                inside -= int(sequences.lengths[row])
                self.cached_tokens += output.num_cached_tokens or 0
                # bfloat16 has no NumPy type; with vLLM's float32 heads this is no copy.
                results[row] = output.outputs.data.float().numpy().reshape(-1)
                done += 1


def _is_unbounded(path: str) -> bool:
    """Whether a cross-encoder gives its logit: sentence-transformers' convention in ``config.json``."""
    return "torch.nn.modules.linear.Identity" in (Path(path) / "config.json").read_text(encoding="utf-8")


class Scorer(Protocol):
    """What the pipeline needs of an engine in score mode."""

    cached_tokens: int

    def score(self, sequences: TokenSequences, second: np.ndarray | None = None) -> np.ndarray:
        """Scores, float32, shape (len(sequences),), in input order."""
        ...
