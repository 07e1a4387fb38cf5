"""vLLM's own step loop, with requests and scheduler, for models that packed steps cannot run."""

from typing import TYPE_CHECKING

import numpy as np

from indexer.inference.deadline import deadline
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import GRACE_SECONDS, pooling_params

if TYPE_CHECKING:
    from vllm import LLMEngine, PoolingParams


class StepLoop:
    """Runs batches as requests of a started vLLM engine.

    Attributes:
        cached_tokens: Tokens so far that were not computed, because an earlier sequence began with the same ones.
    """

    def __init__(self, llm_engine: "LLMEngine", task: str, slowest: float) -> None:
        """Wraps the engine.

        Args:
            llm_engine: A started engine in this process, with a pooling model.
            task: vLLM's name of the task: ``embed``, ``classify`` or ``token_embed``.
            slowest: Tokens per second below which a step counts as hanging.
        """
        from vllm.inputs.engine import tokens_input

        self.cached_tokens = 0
        self._engine = llm_engine
        self._prompt = tokens_input
        self._params = pooling_params(task)
        self._is_per_token = task == "token_embed"
        self._sequences = 0
        self._slowest = slowest
        # Keep twice as many sequences waiting as one step takes; more would only fill memory.
        scheduler = llm_engine.vllm_config.scheduler_config
        self._ahead = 2 * scheduler.max_num_seqs
        self._step_tokens = scheduler.max_num_batched_tokens

    def run(self, sequences: TokenSequences, width: int, second: np.ndarray | None = None) -> np.ndarray:
        """Results of sequences, float32, shape (len(sequences), width), or (tokens, width) of tokens, in input order.

        Args:
            sequences: Their token ids.
            width: Components of a result.
            second: Place of the first token of type 1 in each sequence, for models with token types.
        """
        counts = sequences.lengths if self._is_per_token else np.ones(len(sequences), np.int64)
        starts = np.cumsum(counts, dtype=np.int64) - counts
        results = np.empty((int(counts.sum()), width), np.float32)
        first = self._sequences
        self._sequences += len(sequences)
        added = done = inside = 0
        while done < len(sequences):
            while added < len(sequences) and added - done < self._ahead:
                params = self._params if second is None else self._typed(int(second[added]))
                self._engine.add_request(str(first + added), self._prompt(sequences[added].tolist()), params)
                inside += int(sequences.lengths[added])
                added += 1
            with deadline(GRACE_SECONDS + min(inside, self._step_tokens) / self._slowest):
                outputs = self._engine.step()
            for output in outputs:
                row = int(output.request_id) - first
                inside -= int(sequences.lengths[row])
                self.cached_tokens += output.num_cached_tokens or 0
                # NumPy has no bfloat16; vLLM's heads give float32, which float() does not copy.
                found = output.outputs.data.float().numpy()
                results[starts[row] : starts[row] + counts[row]] = found.reshape(counts[row], -1)
                done += 1
        return results

    def _typed(self, second: int) -> "PoolingParams":
        """Parameters of one sequence, with the place of its first token of type 1."""
        params = self._params.clone()
        params.extra_kwargs = {"compressed_token_type_ids": second}
        return params
