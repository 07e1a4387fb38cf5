"""Texts to token ids: end token, limits, chunks and templates; batched, outside the engine."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from indexer.errors import IndexerError, SettingsError
from indexer.fates import Fate

QWEN3 = "qwen3"
QWEN3_END = "<|endoftext|>"
"""Token at whose position Qwen3-Embedding is pooled (model card); not the tokenizer's ``eos_token``."""

QWEN3_QUERY = "Instruct: {instruction}\nQuery:{query}"
"""Query template of Qwen3-Embedding (model card): no space after the second colon."""

CUTTABLE = frozenset({"ByteLevel", "BertPreTokenizer", "Sequence"})
"""Pre-tokenizers that end a piece between a letter or digit and white space, so that a text may be cut there."""

CHARACTERS_PER_TOKEN = 8
"""First guess at how much of a long text holds ``max_tokens``; English has about 4.5."""

CUT_PLACE = re.compile(r"[A-Za-z0-9](?=[ \n])")


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of some texts.

    Attributes:
        ids: Token ids of every chunk, special tokens included.
        row: int32, shape (chunks,): which text a chunk belongs to.
        chunk: int32, number of the chunk in its text.
        char_start: int32, first character of the chunk in the text.
        char_end: int32, character after the last one that the tokens cover.
        truncated: bool, whether text was left out.
        rejected: (text, fate) of texts that have no chunk.
    """

    ids: list[list[int]]
    row: np.ndarray
    chunk: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    truncated: np.ndarray
    rejected: list[tuple[int, Fate]]


@dataclass(frozen=True)
class _Chunk:
    """One chunk before the batch is put into arrays."""

    row: int
    number: int
    start: int
    end: int
    ids: list[int]
    truncated: bool = False


class EmbedTokenizer:
    """Token ids of documents and queries for one embedding model. Safe to use from one thread at a time."""

    def __init__(
        self,
        path: str,
        *,
        max_tokens: int,
        overflow: Literal["truncate", "chunk", "quarantine"] = "truncate",
        chunk_overlap: int = 64,
        instruction: str = "",
    ) -> None:
        """Loads the tokenizer of a checkpoint.

        Args:
            path: Directory of the checkpoint.
            max_tokens: Most tokens of a chunk, special tokens included.
            overflow: What becomes of a longer text.
            chunk_overlap: Tokens that neighbouring chunks share, with ``overflow="chunk"``.
            instruction: Task put before queries.

        Raises:
            SettingsError: There is no fast tokenizer, or the limit leaves no room for text.
        """
        self._tokenizer = _load(path)
        self._instruction = instruction
        self._overflow = overflow
        self._overlap = chunk_overlap
        self._prefix, self._suffix = _special_tokens(self._tokenizer)
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        self._is_qwen3 = config.get("model_type") == QWEN3
        if self._is_qwen3:
            self._end_with(QWEN3_END)
        self.query_template = QWEN3_QUERY if self._is_qwen3 else _query_prompt(path) + "{query}"
        self._room = max_tokens - len(self._prefix) - len(self._suffix)
        if self._room < 1:
            raise SettingsError(f"model.max_tokens: {max_tokens} leaves no room for text beside the special tokens")
        kind = type(self._tokenizer.pre_tokenizer).__name__ if self._tokenizer.pre_tokenizer else ""
        self._may_cut = kind in CUTTABLE

    @cached_property
    def digest(self) -> str:
        """Digest of everything that decides the ids of a document."""
        parts = [self._tokenizer.to_str(), self._prefix, self._suffix, self._room, self._overflow]
        if self._overflow == "chunk":
            parts.append(self._overlap)
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def documents(self, texts: Sequence[str]) -> TokenBatch:
        """Token ids of documents; strings that look like special tokens are encoded as the text they are.

        Args:
            texts: Any texts.

        Returns:
            The chunks, in the order of the texts.

        Raises:
            IndexerError: A row does not end with the end token, so that its vector would be read elsewhere.
        """
        heads = [self._head(text) for text in texts]
        bodies = [list(encoding.ids) for encoding in self._encode(heads)]
        rejected: list[tuple[int, Fate]] = []
        chunks: list[_Chunk] = []
        for row, (text, head, body) in enumerate(zip(texts, heads, bodies, strict=True)):
            if not body:
                rejected.append((row, Fate.NO_TOKENS))
            elif len(body) <= self._room and len(head) == len(text):
                chunks.append(_Chunk(row, 0, 0, len(text), body))
            elif self._overflow == "quarantine":
                rejected.append((row, Fate.TOO_LONG))
            elif self._overflow == "chunk":
                chunks += self._chunks(row, text)
            else:
                chunks.append(_Chunk(row, 0, 0, self._end_of_kept(head), body[: self._room], truncated=True))
        return self._batch(chunks, rejected)

    def queries(self, texts: Sequence[str], instruction: str | None = None) -> list[list[int]]:
        """Token ids of queries in the model's template, cut at the limit.

        Args:
            texts: Queries.
            instruction: Task, instead of the one given at construction.

        Returns:
            Token ids of every query, special tokens included.
        """
        task = self._instruction if instruction is None else instruction
        filled = [self.query_template.replace("{instruction}", task).replace("{query}", text) for text in texts]
        return [self._wrapped(list(encoding.ids)[: self._room]) for encoding in self._encode(filled)]

    def _encode(self, texts: Sequence[str]) -> Sequence[object]:
        return self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)

    def _end_with(self, token: str) -> None:
        end = self._tokenizer.token_to_id(token)
        if end is None:
            raise SettingsError(f"the tokenizer has no {token}, at which the model is pooled")
        if self._suffix[-1:] != [end]:
            self._suffix = [*self._suffix, end]

    def _head(self, text: str) -> str:
        """As much of a long text as is sure to hold the tokens that are kept.

        A pre-tokenizer of :data:`CUTTABLE` splits a text into pieces and tokens never cross pieces. Its piece with an
        ASCII letter or digit is a run of letters, one digit, or a word: it never reaches into white space, and whether
        it ends there depends on nothing behind it. So the tokens of a text up to such a place are the first tokens of
        the whole text. If they are more than are kept, the rest cannot change those; if not, twice as much is tried.
        """
        if self._overflow == "chunk" or not self._may_cut:
            return text
        size = CHARACTERS_PER_TOKEN * (self._room + 1)
        while size < len(text):
            place = CUT_PLACE.search(text, size)
            if place is None:
                break
            head = text[: place.end()]
            if len(self._tokenizer.encode(head, add_special_tokens=False).ids) > self._room:
                return head
            size *= 2
        return text

    def _end_of_kept(self, head: str) -> int:
        """Character after the last kept token."""
        return int(self._tokenizer.encode(head, add_special_tokens=False).offsets[self._room - 1][1])

    def _chunks(self, row: int, text: str) -> Iterator[_Chunk]:
        spans = [(start, start + len(piece)) for start, piece in self._splitter.chunk_indices(text)]
        encodings = self._encode([text[start:end] for start, end in spans])
        number = 0
        for (start, end), encoding in zip(spans, encodings, strict=True):
            if encoding.ids:
                cut = len(encoding.ids) > self._room
                yield _Chunk(row, number, start, end, list(encoding.ids)[: self._room], truncated=cut)
                number += 1

    @cached_property
    def _splitter(self) -> TextSplitter:
        # Overlap at most half a chunk, or the splitter could not advance.
        overlap = min(self._overlap, (self._room - 1) // 2)
        return TextSplitter.from_huggingface_tokenizer(self._tokenizer, self._room, overlap, trim=False)

    def _wrapped(self, body: list[int]) -> list[int]:
        return [*self._prefix, *body, *self._suffix]

    def _batch(self, chunks: Sequence[_Chunk], rejected: list[tuple[int, Fate]]) -> TokenBatch:
        ids = [self._wrapped(chunk.ids) for chunk in chunks]
        if self._is_qwen3 and any(row[-1] != self._suffix[-1] for row in ids):
            raise IndexerError("a document does not end with the token at which the model is pooled")
        return TokenBatch(
            ids=ids,
            row=np.array([chunk.row for chunk in chunks], np.int32),
            chunk=np.array([chunk.number for chunk in chunks], np.int32),
            char_start=np.array([chunk.start for chunk in chunks], np.int32),
            char_end=np.array([chunk.end for chunk in chunks], np.int32),
            truncated=np.array([chunk.truncated for chunk in chunks], bool),
            rejected=rejected,
        )


def _load(path: str) -> Tokenizer:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SettingsError(f"model.name: no tokenizer in {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise SettingsError("model.name: the model has no fast tokenizer, which batched tokenisation needs")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer itself puts before and behind a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    start = next(at for at in range(len(full)) if full[at : at + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def _query_prompt(path: str) -> str:
    """Query prompt of models that ship one for sentence-transformers, else nothing."""
    file = Path(path) / "config_sentence_transformers.json"
    if not file.is_file():
        return ""
    prompts = json.loads(file.read_text(encoding="utf-8")).get("prompts") or {}
    return str(prompts.get("query") or "")
