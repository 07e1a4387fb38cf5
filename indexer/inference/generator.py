"""A language model in vLLM that continues prompts."""

from collections.abc import Sequence

from indexer.errors import EngineDead
from indexer.inference.deadline import deadline
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import GRACE_SECONDS, failure_reason, start_engine

TEMPERATURE = 0.7
"""Sampling temperature. At 0, small models write the same question for many texts."""


class Generator:
    """A language model in vLLM that continues prompts."""

    def __init__(self, spec: EngineSpec, *, written: int, ends: Sequence[int]) -> None:
        """Loads the model.

        Args:
            spec: The model and how it is computed.
            written: Cap on the ids written after a prompt.
            ends: Ids after which nothing more is written.

        Raises:
            SettingsError: An argument is not vLLM's, or ours to set.
            EngineError: vLLM refuses the settings or the model.
        """
        self._engine = start_engine(spec, "write")
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input

        self._prompt = tokens_input
        self._params = SamplingParams(
            temperature=TEMPERATURE, seed=0, max_tokens=written, stop_token_ids=list(ends), detokenize=False
        )
        self._sequences = 0
        self._slowest = spec.slowest

    def write(self, prompts: TokenSequences) -> list[list[int]]:
        """Continues each prompt; equal calls give equal results.

        Args:
            prompts: Token ids of the prompts.

        Returns:
            Ids written, in input order.

        Raises:
            EngineDead: vLLM failed.
        """
        first = self._sequences
        self._sequences += len(prompts)
        found: dict[int, list[int]] = {}
        try:
            for at, ids in enumerate(prompts):
                self._engine.add_request(str(first + at), self._prompt(ids.tolist()), self._params)
            while len(found) < len(prompts):
                with deadline(GRACE_SECONDS + prompts.tokens / self._slowest):
                    outputs = self._engine.step()
                found |= {
                    int(output.request_id) - first: list(output.outputs[0].token_ids)
                    for output in outputs
                    if output.finished
                }
        except Exception as error:
            raise EngineDead(f"vLLM failed: {failure_reason(error)}") from error
        return [found[at] for at in range(len(prompts))]
