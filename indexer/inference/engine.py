"""The vLLM engine in this process: token ids in, an array out, rows in input order.

vLLM is imported when an engine is created, so that a process without one starts fast.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from indexer.errors import EngineDead, free_frames
from indexer.inference import process_state
from indexer.inference.canary import check_scores, check_unit, check_vectors
from indexer.inference.checkpoint import is_unbounded
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.process_state import ONE_AT_A_TIME, compiled_seconds
from indexer.inference.proof import proven
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import Mode, failure_reason, start_engine
from indexer.inference.step_loop import StepLoop
from indexer.inference.text_vectors import TextVectors
from indexer.steps import step

if TYPE_CHECKING:
    from indexer.inference.packed import PackedRunner


class Embedder(Protocol):
    """Protocol of an engine in embed mode."""

    dimension: int

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        """Unit vectors, float32, shape (len(sequences), dimension), in input order.

        Of a late-interaction model they are those of the tokens: shape (sequences.tokens, dimension).
        """
        ...

    def close(self) -> None:
        """Frees the model; the engine is not used afterwards."""
        ...


TASKS: dict[Mode, Literal["embed", "classify", "token_embed"]] = {
    "embed": "embed",
    "score": "classify",
    "tokens": "token_embed",
}


class Engine:
    """A model in vLLM, for vectors of texts or of their tokens, or for scores.

    Attributes:
        dimension: Width of the vectors.
        pooling: vLLM's name of the pooling.
        max_tokens: Most ids of one sequence.
        compile_seconds: Seconds that vLLM compiled the model; less where it found compiled parts in its cache.
        way_back: Why vLLM's own loop runs the model although packed steps were wanted, otherwise ``None``.
    """

    def __init__(
        self,
        spec: EngineSpec,
        canary: TokenSequences,
        *,
        mode: Mode = "embed",
        canary_second: np.ndarray | None = None,
        dimension: int | None = None,
    ) -> None:
        """Loads the model, tests it on a few sequences, and chooses between packed steps and vLLM's own loop.

        Args:
            spec: The model and how it is computed.
            canary: Token ids of at least two texts (or pairs) whose vectors (scores) must differ.
            mode: ``embed`` for :meth:`embed`, ``tokens`` for it with a vector of every token, ``score`` for
                :meth:`score`.
            canary_second: As in :meth:`score`.
            dimension: Width of the vectors, if vLLM does not know it, as of a late-interaction model.

        Raises:
            SettingsError: An argument is not vLLM's, or ours to set.
            EngineError: vLLM refuses the settings or the model, or the canary's result is unusable. If ``spec.packed``
                is ``on``, also if packed steps give other results than vLLM's loop.
        """
        with ONE_AT_A_TIME:
            self._start(spec, canary, mode, canary_second, dimension)

    def _start(
        self,
        spec: EngineSpec,
        canary: TokenSequences,
        mode: Mode,
        canary_second: np.ndarray | None,
        dimension: int | None,
    ) -> None:
        """Does what :meth:`__init__` says."""
        before = compiled_seconds()
        self._engine = start_engine(spec, mode)
        process_state.started(self._engine)
        self.max_tokens = spec.max_tokens
        self.dimension = dimension or int(self._engine.model_config.embedding_size)
        self.pooling = str(getattr(self._engine.model_config.pooler_config, "seq_pooling_type", None))
        self._width = 1 if mode == "score" else self.dimension
        self._broken = False
        self._loop = StepLoop(self._engine, TASKS[mode], spec.slowest)
        self._packed: PackedRunner | None = None
        self.way_back: str | None = None
        try:
            with step("trying the engine on known texts"):
                self._try(spec, canary, mode, canary_second)
        except BaseException as error:
            # Nobody has this engine to close it, and another try needs its memory.
            free_frames(error)
            with suppress(Exception):  # a GPU that failed; the first error says why
                self.close()
            raise
        measured = float(self._engine.vllm_config.compilation_config.compilation_time)
        self.compile_seconds = measured or compiled_seconds() - before  # vLLM measures it on GPUs only

    def _try(self, spec: EngineSpec, canary: TokenSequences, mode: Mode, canary_second: np.ndarray | None) -> None:
        """Checks the canary's results, and chooses packed steps where they are proven."""
        if mode == "score":
            check_scores(self.score(canary, canary_second), bounded=not is_unbounded(spec.path))
        else:
            vectors = TextVectors.of(self.embed(canary), canary)
            check_unit(vectors.flat, self.dimension)
            # The first token has read all others.
            check_vectors(vectors.flat[vectors.starts], self.dimension)
        if spec.packed != "off" and mode != "tokens":  # they have one result of each sequence
            self._packed, self.way_back = proven(self._engine, self._loop, spec, self._width, canary, canary_second)

    @property
    def cached_tokens(self) -> int:
        """Tokens so far that were not computed, because an earlier sequence began with the same ones."""
        return self._loop.cached_tokens + (self._packed.cached_tokens if self._packed else 0)

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        """Vectors of sequences.

        Args:
            sequences: Their token ids, special tokens included.

        Returns:
            Unit vectors, float32, C-contiguous, in input order: shape (len(sequences), dimension), in mode ``tokens``
            (sequences.tokens, dimension).

        Raises:
            ValueError: A sequence is empty or longer than ``max_tokens``.
            EngineDead: vLLM failed.
        """
        return self._run(sequences, None)

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
        return self._run(sequences, second)[:, 0]

    def _run(self, sequences: TokenSequences, second: np.ndarray | None) -> np.ndarray:
        """Checks the lengths and runs the batch. An engine that failed once is never used again."""
        for length in (sequences.lengths.min(initial=1), sequences.lengths.max(initial=1)):
            if not 0 < length <= self.max_tokens:
                raise ValueError(f"a sequence has {length} token ids; 1 to {self.max_tokens} are possible")
        with ONE_AT_A_TIME:
            if self._broken:
                raise EngineDead("the engine failed before and cannot be used again; start another one")
            self._broken = True
            try:
                if self._packed is None:
                    results = self._loop.run(sequences, self._width, second)
                else:
                    results = self._packed.run(sequences, second)
            except Exception as error:
                free_frames(error)  # whoever keeps the error would keep what the step had on the GPU
                raise EngineDead(f"vLLM failed: {failure_reason(error)}") from error
            self._broken = False
            return results

    def close(self) -> None:
        """Frees the model; the engine cannot be used afterwards."""
        self._broken = True
        self._packed = None
        process_state.end(self._engine)


class Scorer(Protocol):
    """Protocol of an engine in score mode."""

    @property
    def cached_tokens(self) -> int:
        """Tokens so far that were not computed, because an earlier prompt began with the same ones."""
        ...

    def score(self, sequences: TokenSequences, second: np.ndarray | None = None) -> np.ndarray:
        """Scores, float32, shape (len(sequences),), in input order."""
        ...

    def close(self) -> None:
        """Frees the model; the engine is not used afterwards."""
        ...
