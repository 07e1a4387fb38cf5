"""Token ids of query-document pairs for a reranker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.errors import SettingsError
from indexer.inference.sequences import TokenSequences
from indexer.inference.tokenizer import (
    INSTRUCTION,
    TextEncoder,
    is_classifier,
    is_qwen3,
    text_encoder,
    tokenizer_digest,
)

PAIR_TEMPLATE = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"

PAIR_PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided."
    ' Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)

PAIR_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
"""Qwen3-Reranker's model card, byte for byte."""


@dataclass(frozen=True)
class PairBatch:
    """Token ids of the prompts of some pairs.

    Attributes:
        ids: Token ids of every prompt.
        truncated: bool, shape (pairs,): whether text was cut off.
        second: int32, shape (pairs,): place of the document's first token in every prompt, for models with token
            types; otherwise ``None``.
    """

    ids: TokenSequences
    truncated: np.ndarray
    second: np.ndarray | None


class PairTokenizer:
    """Turns pairs of query and document into the ids that a reranker reads.

    If a pair is too long, only the document is cut, unless the query alone is too long.
    """

    def __init__(self, path: str, max_tokens: int, instruction: str = INSTRUCTION) -> None:
        """Loads the tokenizer of a checkpoint.

        Args:
            path: Directory of the checkpoint.
            max_tokens: Cap on a prompt's ids, special tokens included.
            instruction: The task put before the query, for models that follow instructions.

        Raises:
            SettingsError: Not a reranker, or ``max_tokens`` is too small for any pair.
        """
        encoder = text_encoder(path)
        if is_qwen3(path):
            self._template: _Prompt | _TwoSides = _Prompt(encoder, max_tokens, instruction)
        elif is_classifier(path):
            self._template = _TwoSides(encoder, max_tokens)
        else:
            raise SettingsError("model.name: neither Qwen3-Reranker nor a cross-encoder with a classification head")
        self.digest = self._template.digest(encoder.text)

    @property
    def takes_instructions(self) -> bool:
        """Whether the model's template has a place for an instruction."""
        return isinstance(self._template, _Prompt)

    def pairs(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None] | None = None
    ) -> PairBatch:
        """Token ids of prompts.

        Args:
            queries: One query per pair.
            documents: One document per pair.
            instructions: One instruction per pair; ``None`` for the one given at the start. Cross-encoders with a
                template of their own take none.

        Returns:
            The prompts, in the order of the pairs.
        """
        return self._template.pairs(queries, documents, instructions or [None] * len(queries))


class _Prompt:
    """Qwen3-Reranker's prompt. Prefix, middle and suffix are tokenised apart and joined as ids, as on its card."""

    def __init__(self, encoder: TextEncoder, max_tokens: int, instruction: str) -> None:
        self._encoder = encoder
        self._prefix = encoder.full.encode(PAIR_PREFIX, add_special_tokens=False).ids
        self._suffix = encoder.full.encode(PAIR_SUFFIX, add_special_tokens=False).ids
        self._limit = _text_limit(max_tokens, self._prefix, self._suffix)
        self._instruction = instruction

    def digest(self, text: str) -> str:
        return tokenizer_digest([text, PAIR_TEMPLATE, self._prefix, self._suffix, self._limit, self._instruction])

    def pairs(self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]) -> PairBatch:
        middles = [
            PAIR_TEMPLATE.format(
                instruction=self._instruction if task is None else task, query=query, document=document
            )
            for task, query, document in zip(instructions, queries, documents, strict=True)
        ]
        # The document comes last, so that a cut shortens it and never the query before it.
        beginnings = self._encoder.beginnings(middles, self._limit)
        return PairBatch(beginnings.ids.framed(self._prefix, self._suffix), ~beginnings.complete, None)


class _TwoSides:
    """Prompts of BERT-like cross-encoders: the tokenizer's own special tokens around and between both texts."""

    def __init__(self, encoder: TextEncoder, max_tokens: int) -> None:
        self._encoder = encoder
        self._before, self._between, self._behind, self._typed = _pair_frame(encoder)
        self._limit = _text_limit(max_tokens, self._before, self._between, self._behind)

    def digest(self, text: str) -> str:
        return tokenizer_digest([text, self._before, self._between, self._behind, self._limit])

    def pairs(self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]) -> PairBatch:
        if any(instructions):
            raise SettingsError("this model takes no instruction; leave instruction_column out")
        firsts = self._encoder.beginnings(queries, self._limit)
        seconds = self._encoder.beginnings(documents, self._limit)
        behind = np.array(self._behind, np.int32)
        heads = firsts.ids.framed(self._before, self._between)
        budgets = self._limit - firsts.ids.lengths
        tails = [ids[:budget] for ids, budget in zip(seconds.ids, budgets, strict=True)]
        rows = (np.concatenate([head, tail, behind]) for head, tail in zip(heads, tails, strict=True))
        truncated = ~(firsts.complete & seconds.complete) | (seconds.ids.lengths > budgets)
        return PairBatch(TokenSequences.of(rows), truncated, heads.lengths if self._typed else None)


def _text_limit(max_tokens: int, *special: Sequence[int]) -> int:
    """Tokens left for text beside the special ones."""
    limit = max_tokens - sum(map(len, special))
    if limit < 1:
        raise SettingsError(f"model.max_tokens: {max_tokens} leaves no room for a pair")
    return limit


def _pair_frame(encoder: TextEncoder) -> tuple[list[int], list[int], list[int], bool]:
    """Special tokens before, between and behind two texts; and whether the second text has its own token type."""
    bare = encoder.full.encode("a", add_special_tokens=False).ids
    framed = encoder.full.encode("a", "a")
    found = [at for at in range(len(framed.ids)) if framed.ids[at : at + len(bare)] == bare]
    if len(found) != len(("query", "document")):
        raise SettingsError("model.name: the tokenizer's template for pairs changes the texts' own tokens")
    first, second = found
    between = framed.ids[first + len(bare) : second]
    return framed.ids[:first], between, framed.ids[second + len(bare) :], framed.type_ids[second] == 1
