"""Token ids of documents and queries for an embedding model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from semantic_text_splitter import TextSplitter

from indexer.errors import IndexerError, SettingsError
from indexer.inference.sequences import TokenSequences
from indexer.inference.tokenizer import INSTRUCTION, Beginnings, is_qwen3, text_encoder, token_id, tokenizer_digest
from indexer.reasons import QuarantineReason

Overflow = Literal["truncate", "chunk", "quarantine"]

QUERY_TEMPLATE = "Instruct: {instruction}\nQuery:{query}"
"""Qwen3-Embedding's model card; there is no space after the second colon."""

END_TOKEN = "<|endoftext|>"
"""Token whose last hidden state is Qwen3-Embedding's vector. Its tokenizer's ``eos_token`` is another token."""


@dataclass(frozen=True)
class Prompts:
    """Prompts around texts before they become tokens.

    Attributes:
        query: Text before queries. ``None`` means Qwen3-Embedding's template with the instruction for a Qwen3, and
            nothing for other models.
        document: Text before documents.
        lower_case: Whether texts are made lower case.
    """

    query: str | None = None
    document: str = ""
    lower_case: bool = False


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of the chunks of some documents.

    Attributes:
        ids: Ids of every chunk, special tokens included.
        row: int32, shape (chunks,): number of the chunk's document.
        chunk: int32, shape (chunks,): number of the chunk in its document.
        char_start: int32, shape (chunks,): first character of the chunk in the document.
        char_end: int32, shape (chunks,): character after the last one that the ids cover.
        truncated: bool, shape (chunks,): whether text was cut off.
        rejected: Number of each document without chunks, and the value of its :class:`QuarantineReason`.
    """

    ids: TokenSequences
    row: np.ndarray
    chunk: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    truncated: np.ndarray
    rejected: list[tuple[int, str]]


@dataclass
class _Chunks:
    """Collects the chunks of a batch; columns of a :class:`TokenBatch`."""

    found: list[Beginnings] = field(default_factory=list)
    row: list[np.ndarray] = field(default_factory=list)
    chunk: list[np.ndarray] = field(default_factory=list)
    start: list[np.ndarray] = field(default_factory=list)

    def add(self, row: np.ndarray, chunk: np.ndarray, start: np.ndarray, beginnings: Beginnings) -> None:
        """Adds chunks: their document, number in it, first character and ids."""
        for column, values in ((self.row, row), (self.chunk, chunk), (self.start, start)):
            column.append(values.astype(np.int32))
        self.found.append(beginnings)

    def batch(self, frame: Callable[[TokenSequences], TokenSequences], rejected: list[tuple[int, str]]) -> TokenBatch:
        """The collected batch, with ``frame`` applied to the ids."""
        found, start = Beginnings.join(self.found), np.concatenate(self.start)
        return TokenBatch(
            ids=frame(found.ids),
            row=np.concatenate(self.row),
            chunk=np.concatenate(self.chunk),
            char_start=start,
            char_end=start + found.char_end.astype(np.int32),
            truncated=~found.complete,
            rejected=rejected,
        )


NO_PROMPTS = Prompts()


class EmbedTokenizer:
    """Turns documents and queries into the ids that an embedding model reads.

    Qwen3 models get the text and the end token, whose position is pooled. Other models get the special tokens of their
    own tokenizer. Queries and documents get the checkpoint's prompts.
    """

    def __init__(
        self,
        path: str,
        max_tokens: int,
        overflow: Overflow = "truncate",
        chunk_overlap: int = 64,
        instruction: str = INSTRUCTION,
        prompts: Prompts = NO_PROMPTS,
    ) -> None:
        """Loads the tokenizer of a checkpoint.

        Args:
            path: Directory of the checkpoint.
            max_tokens: Cap on a chunk's ids, special tokens included.
            overflow: How to treat a longer document: use its beginning, split it into chunks, or quarantine it.
            chunk_overlap: Cap on the tokens that neighbouring chunks share.
            instruction: The task put before queries, for models that follow instructions.
            prompts: The checkpoint's prompts.

        Raises:
            SettingsError: No fast tokenizer, no end token in it, or ``max_tokens`` is too small for any text.
        """
        self._encoder = text_encoder(path, lower_case=prompts.lower_case)
        qwen3 = is_qwen3(path)
        self._prompts = prompts
        own = QUERY_TEMPLATE if qwen3 else "{query}"
        self.query_template = own if prompts.query is None else prompts.query
        if prompts.query is not None and prompts.query != QUERY_TEMPLATE:
            self.query_template += "{query}"
        self._end = token_id(self._encoder, END_TOKEN) if qwen3 else None
        self._before, self._behind = self._frame()
        self._limit = max_tokens - len(self._before) - len(self._behind)
        if self._limit < 1:
            raise SettingsError(f"model.max_tokens: {max_tokens} leaves no room beside the special tokens")
        self._document_ids = self._prompt_ids(prompts.document)
        self._prompt_ids(prompts.query or "")
        self._overflow = overflow
        self._overlap = chunk_overlap
        if overflow == "chunk" and chunk_overlap >= self._limit - len(self._document_ids):
            raise SettingsError(
                f"model.chunk_overlap: {chunk_overlap} is not below the {self._limit} tokens of a chunk"
            )
        self._instruction = instruction

    @cached_property
    def digest(self) -> str:
        """Digest of everything that changes the ids of a document, and of the query template."""
        overlap = self._overlap if self._overflow == "chunk" else None
        parts = [self._encoder.text, self._before, self._behind, self._limit, self._overflow, overlap]
        return tokenizer_digest([self.query_template, *parts])

    @property
    def special(self) -> list[str]:
        """The control tokens of the checkpoint's own tokenizer, which stay text here and do not elsewhere."""
        return list(self._encoder.special)

    def documents(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids of documents.

        Args:
            texts: Texts of the documents.

        Returns:
            One chunk for a document that fits or is cut, one or more if long documents are chunked. A document without
            tokens is rejected; so is a long one if the overflow setting says so.

        Raises:
            IndexerError: A row does not end with the end token.
        """
        found = self._beginnings(texts)
        empty = ~self._has_text(texts, found)
        long = ~found.complete & (self._overflow != "truncate")
        rejected = {int(row): QuarantineReason.NO_TOKENS for row in np.flatnonzero(empty)}
        if self._overflow == "quarantine":
            rejected |= {int(row): QuarantineReason.TOO_LONG for row in np.flatnonzero(long)}
        chunks = _Chunks()
        fits = np.flatnonzero(~empty & ~long)
        chunks.add(fits, np.zeros(len(fits)), np.zeros(len(fits)), found.take(fits))
        if self._overflow == "chunk":
            self._split(texts, np.flatnonzero(long), chunks)
        return chunks.batch(self._framed, [(row, rejected[row].value) for row in sorted(rejected)])

    def stored(self, documents: TokenSequences) -> np.ndarray:
        """bool, shape (vectors,): which vectors that a model gives for documents are stored. All, one of each."""
        return np.ones(len(documents), bool)

    def truncated(self, texts: Sequence[str]) -> TokenSequences:
        """Token ids of documents; a long one is cut, whatever the overflow setting says."""
        return self._framed(self._beginnings(texts).ids)

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None] | None = None) -> TokenSequences:
        """Token ids of queries, in their template; a query that is too long is cut.

        Args:
            texts: The queries.
            instructions: One instruction per query; ``None`` for the one given at the start.

        Returns:
            Token ids of each query.
        """
        tasks = [self._instruction if task is None else task for task in instructions or [None] * len(texts)]
        if self.query_template == QUERY_TEMPLATE:
            pairs = zip(tasks, texts, strict=True)
            prompts = [QUERY_TEMPLATE.format(instruction=task, query=text) for task, text in pairs]
        else:  # not str.format: a prompt may contain braces
            prompts = [(self._prompts.query or "") + text for text in texts]
        return self._framed(self._encoder.beginnings(prompts, self._limit).ids)

    def _frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and behind a document."""
        # Qwen3-Embedding's tokenizer.json appends the end token and base Qwen3's does not. Here both get exactly one.
        return self._encoder.frame() if self._end is None else ([], [self._end])

    @cached_property
    def _splitter(self) -> TextSplitter:
        """Splits long texts; a chunk may have as many tokens as the limit leaves beside the prompt."""
        capacity = self._limit - len(self._document_ids)
        return TextSplitter.from_huggingface_tokenizer(self._encoder.plain, capacity, overlap=self._overlap)

    def _split(self, texts: Sequence[str], rows: np.ndarray, chunks: _Chunks) -> None:
        """Adds the chunks of long texts; a chunk ends after a sentence, otherwise after a word or a character."""
        cut = self._splitter.chunk_all_indices([texts[row] for row in rows]) if rows.size else []
        for row, parts in zip(rows, cut, strict=True):
            # A single character may have more tokens than fit: it is cut like any text, so that no chunk is too long.
            spans = [text for _, text in parts]
            found = self._beginnings(spans)
            kept = np.flatnonzero(self._has_text(spans, found))
            starts = np.array([start for start, _ in parts])[kept]
            chunks.add(np.full(len(kept), row), np.arange(len(kept)), starts, found.take(kept))

    def _beginnings(self, texts: Sequence[str]) -> Beginnings:
        """The first tokens of prompt and document; ends are counted in the text without the prompt."""
        prompt = self._prompts.document
        if not prompt:
            return self._encoder.beginnings(texts, self._limit)
        found = self._encoder.beginnings([prompt + text for text in texts], self._limit)
        return replace(found, char_end=np.maximum(0, found.char_end - len(prompt)))

    def _has_text(self, texts: Sequence[str], found: Beginnings) -> np.ndarray:
        """Whether a document adds tokens to its prompt, whose last token may merge with the text's beginning."""
        has = found.ids.lengths > 0
        if self._document_ids:
            for row in np.flatnonzero(found.ids.lengths <= len(self._document_ids) + 1):
                has[row] = self._encoder.encode([texts[row]]).tokens > 0
        return has

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt alone.

        Raises:
            SettingsError: It spells a special token, which would be read as text, or no token is left for the text.
        """
        spelled = [token for token in self._encoder.special if token in prompt]
        if spelled:
            raise SettingsError(
                f"model.name: the prompt {prompt!r} has the special token {spelled[0]}, which is not supported"
            )
        ids = list(self._encoder.plain.encode(prompt, add_special_tokens=False).ids)
        if len(ids) >= self._limit:
            raise SettingsError(f"model.max_tokens: the prompt {prompt!r} leaves no room for text")
        return ids

    def _framed(self, bodies: TokenSequences) -> TokenSequences:
        """Adds the special tokens around each sequence and checks the end token."""
        framed = bodies.framed(self._before, self._behind)
        if self._end is not None and (framed.ids[framed.starts + framed.lengths - 1] != self._end).any():
            raise IndexerError(
                "internal error: a token sequence does not end with <|endoftext|>, so its vector would be pooled at "
                "the wrong position"
            )
        return framed
