"""Token ids of documents and queries for a late-interaction model, and which of their vectors are stored."""

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexer.errors import SettingsError
from indexer.inference.embed_inputs import NO_PROMPTS, EmbedTokenizer, Overflow, Prompts
from indexer.inference.late_interaction import LateInteraction
from indexer.inference.sequences import TokenSequences
from indexer.inference.tokenizer import token_id

MASK = "[MASK]"
"""BERT's token that fills queries."""


class LateInteractionTokenizer(EmbedTokenizer):
    """Turns documents and queries into the ids that a ColBERT model reads.

    A marker stands behind the first special token, another one for queries than for documents.
    """

    def __init__(
        self,
        path: str,
        late: LateInteraction,
        max_tokens: int,
        overflow: Overflow = "truncate",
        chunk_overlap: int = 64,
        prompts: Prompts = NO_PROMPTS,
    ) -> None:
        """Loads the tokenizer of a checkpoint; arguments and errors as :class:`EmbedTokenizer`."""
        self._late = late
        super().__init__(path, max_tokens, overflow, chunk_overlap, prompts=prompts)
        self._query_before = [*self._before[:-1], token_id(self._encoder, late.query_marker)]
        self._query_length = min(late.query_tokens, max_tokens)
        self._query_limit = self._query_length - len(self._before) - len(self._behind)
        if self._query_limit < 1:
            raise SettingsError(f"model.name: {Path(path).name} leaves a query no token beside the special ones")
        self._mask = token_id(self._encoder, MASK) if late.pads_queries else None
        self._skipped = self._punctuation() if late.skips_punctuation else np.empty(0, np.int32)

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None] | None = None) -> TokenSequences:  # noqa: ARG002
        """Token ids of queries; there are no instructions."""
        prompt = self._prompts.query or ""
        bodies = self._encoder.beginnings([prompt + text for text in texts], self._query_limit).ids
        framed = bodies.framed(self._query_before, self._behind)
        if self._mask is None:
            return framed
        rows = (np.pad(row, (0, self._query_length - len(row)), constant_values=self._mask) for row in framed)
        return TokenSequences.of(rows)

    def stored(self, documents: TokenSequences) -> np.ndarray:
        """bool, shape (documents.tokens,): all tokens but punctuation."""
        return ~np.isin(documents.ids, self._skipped)

    def _frame(self) -> tuple[list[int], list[int]]:
        """The special tokens around a document, and its marker."""
        before, behind = super()._frame()
        return [*before, token_id(self._encoder, self._late.document_marker)], behind

    def _punctuation(self) -> np.ndarray:
        """Ids of punctuation: the first one of each mark, as ColBERT's skip list has it."""
        encoded = (self._encoder.plain.encode(mark, add_special_tokens=False).ids for mark in string.punctuation)
        return np.unique([ids[0] for ids in encoded if ids]).astype(np.int32)
