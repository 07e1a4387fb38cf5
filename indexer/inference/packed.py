"""Batches of token ids through a vLLM engine in packed steps: flat ids in, one array out, no requests, no scheduler.

A step is one forward pass over whole sequences end to end. ``packed_layout`` lays it out; ``packed_model`` runs it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from indexer.inference.packed_layout import NO_BLOCKS, KvBlocks, Plan, Step, lay_out
from indexer.inference.packed_model import Launched, PackedModel, PackedUnavailable
from indexer.inference.sequences import TokenSequences

if TYPE_CHECKING:
    from vllm import LLMEngine

__all__ = ["PackedRunner", "PackedUnavailable", "StepDeadline"]

CPU_STEP_TOKENS = 2048
"""Cap on a step's tokens on a CPU. Measured: 1,024 to 4,096 give the same rate, 8,192 some 10 % less."""

StepDeadline = Callable[[int], AbstractContextManager[None]]
"""Makes the context around a step, given the tokens computed in it."""


class PackedRunner:
    """Runs batches through the model of a started vLLM engine.

    The KV cache has one owner at a time: after vLLM's own loop has run, call :meth:`forget` before the next batch.

    Attributes:
        cached_tokens: Tokens so far that were not computed, because an earlier sequence began with the same ones.
        step_tokens: Cap on a step's tokens; a longer sequence gets a step of its own.
    """

    def __init__(
        self, llm_engine: "LLMEngine", *, step_tokens: int | None = None, step_deadline: StepDeadline | None = None
    ) -> None:
        """Takes the model out of the engine.

        Args:
            llm_engine: A started engine in this process, with a pooling model.
            step_tokens: Cap on a step's tokens, at most vLLM's ``max_num_batched_tokens``.
            step_deadline: Context around each step.

        Raises:
            PackedUnavailable: The engine, the model or this version of vLLM lacks something; says what.
        """
        self._engine = llm_engine
        self._model = PackedModel(llm_engine)
        self._deadline = step_deadline or (lambda _: nullcontext())
        self.cached_tokens = 0
        config = llm_engine.vllm_config
        scheduler = config.scheduler_config
        limit = scheduler.max_num_batched_tokens
        self.step_tokens = min(limit, step_tokens or (CPU_STEP_TOKENS if self._model.on_cpu else limit))
        # Attention builders for GPUs have buffers for this many sequences; the one for CPUs has none.
        self._step_sequences = limit if self._model.on_cpu else scheduler.max_num_seqs
        self._ramp = np.arange(limit, dtype=np.int64)
        self._longest = config.model_config.max_model_len
        self._width = int(config.model_config.embedding_size) if self._model.task == "embed" else 1
        # Three sequences at once: one held, one whose blocks are reused, one being written.
        needed = 3 * -(-self._longest // max(1, self._model.block_size))
        self._shares = bool(config.cache_config.enable_prefix_caching) and needed < self._model.blocks
        if self._model.block_size and needed // 3 >= self._model.blocks:
            raise PackedUnavailable("the KV cache is too small for a sequence of max_model_len")
        self.forget()

    def forget(self) -> None:
        """Drops the content of the KV cache, because vLLM's own loop writes there too."""
        self._blocks = KvBlocks(self._model.block_size, self._model.blocks)
        self._owns_cache = False

    def run(self, sequences: TokenSequences, second: np.ndarray | None = None) -> np.ndarray:
        """Vectors or scores of sequences.

        Args:
            sequences: Their token ids.
            second: Place of the first token of type 1 in each, shape (n,), for models with token types.

        Returns:
            Results of the model's pooler, float32, C-contiguous, shape (n, dimension) or (n, 1), in input order.

        Raises:
            ValueError: A sequence is empty or longer than ``max_model_len``, or vLLM's own loop is at work.
        """
        self._check(sequences.lengths)
        if self._shares and not self._owns_cache:
            # Otherwise vLLM's own loop would find prefixes in blocks that this call overwrites.
            self._engine.reset_prefix_cache()
        self._owns_cache = True
        try:
            results, done = self._compute(sequences, second)
            done &= np.isfinite(results.sum(axis=1)) | (self._model.block_size == 0)
            rows = np.flatnonzero(~done)
            while len(rows):
                # Recompute in a clean cache: a NaN that stays is the sequence's own.
                self._model.clear_cache()
                self._blocks = KvBlocks(self._model.block_size, self._model.blocks)
                results[rows], done = self._compute(sequences.take(rows), None if second is None else second[rows])
                rows = rows[~done]
        except BaseException:
            self.forget()  # a step's layout holds its blocks, even if the step was never computed
            raise
        return results

    def _compute(self, sequences: TokenSequences, second: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Results, and which of them were computed; stops after a step with results that are not finite.

        Kernels for CPUs multiply the rest of a block, behind a sequence's last token, by zero. A NaN that an earlier
        sequence left there would spread to every later sequence.
        """
        results = np.empty((len(sequences), self._width), np.float32)
        done = np.zeros(len(sequences), bool)
        launched: Launched | None = None
        for step in chain(self._steps(sequences.ids, sequences.lengths, second), [None]):
            before, tokens = launched, 0 if launched is None else launched.tokens
            with self._deadline(tokens + (0 if step is None else len(step.ids))):
                # On a GPU the next step is queued before the host waits for the result of this one.
                launched = None if step is None else self._model.launch(step)
                if before is not None:
                    results[before.rows] = found = before.read()
                    done[before.rows] = True
                    if self._model.block_size and not np.isfinite(found.sum()):
                        break
        return results, done

    def _check(self, lengths: np.ndarray) -> None:
        """Refuses impossible lengths, and a batch while vLLM's own loop is working."""
        for length in (lengths.min(initial=1), lengths.max(initial=1)):
            if not 0 < length <= self._longest:
                raise ValueError(f"a sequence has {length} token ids; 1 to {self._longest} are possible")
        if self._engine.has_unfinished_requests():
            raise ValueError("vLLM's own loop has unfinished requests, whose KV-cache blocks would be overwritten")

    def _plan(self, ids: np.ndarray, lengths: np.ndarray, second: np.ndarray | None) -> tuple[Plan, bool]:
        """The order of the sequences, and whether the blocks of all are held for later calls."""
        plan = self._blocks.plan(ids, lengths, second, share=self._shares)
        fits = self._shares and self._blocks.fits(plan)
        if self._shares and not fits:
            self._blocks.release()
            plan = self._blocks.plan(ids, lengths, second, share=True)
        self.cached_tokens += int(plan.reused.sum()) * self._model.block_size
        return plan, fits

    def _steps(self, ids: np.ndarray, lengths: np.ndarray, second: np.ndarray | None) -> Iterator[Step]:
        """Lays out steps, each with as many sequences as tokens, KV-cache blocks and buffers allow."""
        plan, fits = self._plan(ids, lengths, second)
        size = self._model.block_size
        own = plan.lengths - plan.reused * size
        token_ends = np.append(0, np.cumsum(own, dtype=np.int64))
        block_ends = np.append(0, np.cumsum(-(-own // max(1, size)), dtype=np.int64))
        start, table, free = 0, np.zeros((1, 0), np.int32), self._blocks.free(NO_BLOCKS)
        while start < len(own):
            taken = np.append(table[-1, : plan.inherited[start]], plan.held.get(start, NO_BLOCKS))
            if self._shares:
                free = self._blocks.free(taken)
            stop = min(_last_end(token_ends, start, self.step_tokens), start + self._step_sequences)
            if size:
                stop = min(stop, _last_end(block_ends, start, len(free)))
            part = slice(start, max(start + 1, stop))
            step = lay_out(plan, part, size, free, taken, self._ramp)
            # If the cache cannot hold the whole call, it holds only the last sequence.
            first = max(start, 0 if fits else len(own) - 1)
            if self._shares and first < part.stop:
                self._blocks.hold(plan, slice(first, part.stop), step.table[first - start :])
            start, table = part.stop, step.table
            yield step


def _last_end(ends: np.ndarray, start: int, most: int) -> int:
    """The end of the longest run of sequences from ``start`` on with at most so many tokens or blocks."""
    return int(np.searchsorted(ends, ends[start] + most, side="right")) - 1
