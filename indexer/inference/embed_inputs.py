"""Token ids of documents and queries for an embedding model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from semantic_text_splitter import TextSplitter

from indexer.errors import IndexerError, SettingsError
from indexer.inference.tokenizer import INSTRUCTION, Beginning, TextEncoder, is_qwen3, token_id, tokenizer_digest
from indexer.reasons import QuarantineReason

Overflow = Literal["truncate", "chunk", "quarantine"]

QUERY_TEMPLATE = "Instruct: {instruction}\nQuery:{query}"
"""Qwen3-Embedding's model card; there is no space after the second colon."""

END_TOKEN = "<|endoftext|>"
"""Whose last hidden state is Qwen3-Embedding's vector; ``eos_token`` of its tokenizer is another token."""


@dataclass(frozen=True)
class Prompts:
    """What a checkpoint's texts are put into before they become tokens.

    Attributes:
        query: Before queries; ``None`` for Qwen3-Embedding's template with the instruction where the checkpoint is a
            Qwen3, else nothing.
        document: Before documents.
        lower_case: Whether texts are made lower case.
    """

    query: str | None = None
    document: str = ""
    lower_case: bool = False


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of the chunks of some documents.

    Attributes:
        ids: Token ids of every chunk, special tokens included.
        row: int32, shape (chunks,): number of the chunk's document.
        chunk: int32, shape (chunks,): number of the chunk in its document.
        char_start: int32, shape (chunks,): first character of the chunk in the document.
        char_end: int32, shape (chunks,): character after the last one that the ids cover.
        truncated: bool, shape (chunks,): whether text was cut off.
        rejected: Number of a document that has no chunks, and the value of its :class:`QuarantineReason`.
    """

    ids: list[list[int]]
    row: np.ndarray
    chunk: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    truncated: np.ndarray
    rejected: list[tuple[int, str]]


@dataclass
class _Chunks:
    """Chunks of a batch as they come; columns of a :class:`TokenBatch`."""

    ids: list[list[int]] = field(default_factory=list)
    spans: list[tuple[int, int, int, int, bool]] = field(default_factory=list)

    def add(self, row: int, chunk: int, start: int, beginning: Beginning) -> None:
        """Adds a chunk that begins at character ``start``."""
        self.ids.append(beginning.ids)
        self.spans.append((row, chunk, start, start + beginning.char_end, not beginning.complete))

    def batch(self, ids: list[list[int]], rejected: list[tuple[int, str]]) -> TokenBatch:
        """The columns, with the ids given instead of the chunks' own."""
        columns = np.array(self.spans, np.int32).reshape(-1, 5).T
        row, chunk, start, end = (np.ascontiguousarray(column) for column in columns[:4])
        return TokenBatch(ids, row, chunk, start, end, columns[4].astype(bool), rejected)


NO_PROMPTS = Prompts()


class EmbedTokenizer:
    """Documents and queries to the ids an embedding model reads.

    Qwen3 models get their text and the end token, whose position is the one that is pooled; other models get the
    special tokens of their own tokenizer. Queries and documents get the prompts of the checkpoint.
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
            max_tokens: Most ids of a chunk, special tokens included.
            overflow: How to treat a longer document: use its beginning, split it into chunks, or quarantine it.
            chunk_overlap: Most tokens that neighbouring chunks share.
            instruction: The task put before queries, for models that follow instructions.
            prompts: The checkpoint's prompts.

        Raises:
            SettingsError: No fast tokenizer, no end token in it, or ``max_tokens`` leaves no room for text.
        """
        self._encoder = TextEncoder(path, lower_case=prompts.lower_case)
        qwen3 = is_qwen3(path)
        self._prompts = prompts
        own = QUERY_TEMPLATE if qwen3 else "{query}"
        self.query_template = own if prompts.query is None else prompts.query
        if prompts.query is not None and prompts.query != QUERY_TEMPLATE:
            self.query_template += "{query}"
        self._end = token_id(self._encoder, END_TOKEN) if qwen3 else None
        # Qwen3-Embedding's tokenizer.json appends the end token and base Qwen3's does not: both get exactly one.
        self._before, self._behind = self._encoder.frame() if self._end is None else ([], [self._end])
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

    def documents(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids of documents.

        Args:
            texts: Texts of the documents.

        Returns:
            One chunk for a document that fits or is cut, one or more where documents are chunked. A document without
            tokens is rejected, and so is one that is too long where those go to the quarantine.

        Raises:
            IndexerError: A row does not end with the end token.
        """
        chunks = _Chunks()
        rejected: list[tuple[int, str]] = []
        long: list[int] = []
        for row, beginning in enumerate(self._beginnings(texts)):
            if not self._has_text(texts[row], beginning):
                rejected.append((row, QuarantineReason.NO_TOKENS.value))
            elif beginning.complete or self._overflow == "truncate":
                chunks.add(row, 0, 0, beginning)
            elif self._overflow == "quarantine":
                rejected.append((row, QuarantineReason.TOO_LONG.value))
            else:
                long.append(row)
        self._split([texts[row] for row in long], long, chunks)
        return chunks.batch(self._framed(chunks.ids), rejected)

    def truncated(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of documents that are cut where they are too long, whatever becomes of such documents otherwise."""
        return self._framed([beginning.ids for beginning in self._beginnings(texts)])

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None] | None = None) -> list[list[int]]:
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
        else:  # a prompt may have braces of its own
            prompts = [(self._prompts.query or "") + text for text in texts]
        return self._framed([beginning.ids for beginning in self._encoder.beginnings(prompts, self._limit)])

    @cached_property
    def _splitter(self) -> TextSplitter:
        room = self._limit - len(self._document_ids)
        return TextSplitter.from_huggingface_tokenizer(self._encoder.plain, room, overlap=self._overlap)

    def _split(self, texts: list[str], rows: list[int], chunks: _Chunks) -> None:
        """Adds the chunks of long texts: as full as sentences, else words, else characters allow."""
        for row, parts in zip(rows, self._splitter.chunk_all_indices(texts) if texts else [], strict=True):
            # A character of more tokens than fit is cut like any text: a chunk never has more than the limit.
            beginnings = self._beginnings([text for _, text in parts])
            found = zip(parts, beginnings, strict=True)
            spans = ((start, begin) for (start, text), begin in found if self._has_text(text, begin))
            for number, (start, beginning) in enumerate(spans):
                chunks.add(row, number, start, beginning)

    def _beginnings(self, texts: Sequence[str]) -> list[Beginning]:
        """The first tokens of documents behind their prompt; ends are counted in the text without it."""
        prompt = self._prompts.document
        if not prompt:
            return self._encoder.beginnings(texts, self._limit)
        found = self._encoder.beginnings([prompt + text for text in texts], self._limit)
        return [replace(begin, char_end=max(0, begin.char_end - len(prompt))) for begin in found]

    def _has_text(self, text: str, beginning: Beginning) -> bool:
        """Whether there are tokens besides those of the prompt, whose last one may have grown by the text's first."""
        if not self._document_ids or len(beginning.ids) > len(self._document_ids) + 1:
            return bool(beginning.ids)
        return bool(self._encoder.beginnings([text], 1)[0].ids)

    def _prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt alone.

        Raises:
            SettingsError: It spells a special token, which here would be read as text, or leaves no room for text.
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

    def _framed(self, bodies: list[list[int]]) -> list[list[int]]:
        framed = [[*self._before, *ids, *self._behind] for ids in bodies]
        if self._end is not None and any(ids[-1] != self._end for ids in framed):
            raise IndexerError(
                "internal error: a token sequence does not end with the end token, so its vector would be pooled at "
                "the wrong position"
            )
        return framed
