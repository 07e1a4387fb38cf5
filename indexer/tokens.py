"""Texts to token ids: prompts and templates, the end token, truncation, chunks; documents, queries and pairs.

The tokenizer is the checkpoint's ``tokenizer.json``, run in batches in Rust without the GIL. Special tokens are taken
out of it before use, so that their spelling inside a text is ordinary text and cannot act as a control token: the end
token and BERT's ``[CLS]`` and ``[SEP]`` are put around the ids afterwards. Of Qwen3 all added tokens are taken out,
also ``<think>`` and ``<tool_call>``, which it does not mark as special: they shape its turns. Those of other models,
which may be runs of white space or markup, keep their ids.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from semantic_text_splitter import TextSplitter
from tokenizers import Encoding, Tokenizer

from indexer.errors import IndexerError, SettingsError
from indexer.fates import Fate

VERSION = 2
"""Raised when this module gives other ids for the same text; part of every fingerprint."""

Overflow = Literal["truncate", "chunk", "quarantine"]

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The instruction Qwen3's model cards use when there is none."""

QUERY_TEMPLATE = "Instruct: {instruction}\nQuery:{query}"
"""Qwen3-Embedding's model card; there is no space after the second colon."""

END_TOKEN = "<|endoftext|>"
"""Whose last hidden state is Qwen3-Embedding's vector; ``eos_token`` of its tokenizer is another token."""

PAIR_TEMPLATE = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
PAIR_PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided."
    ' Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
PAIR_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
"""Qwen3-Reranker's model card, byte for byte."""

CHARACTERS_PER_TOKEN = 6
"""First guess of the prefix that holds the kept tokens; above most texts' rate, so that one pass mostly does."""

ENCODED_CHARACTERS = 1 << 21
"""Characters given to the tokenizer at once: its results take some 150 bytes per token until their ids are read."""

SEARCHED_CHARACTERS = 4096
"""How far back a boundary is searched."""

HARD_BOUNDARY = re.compile(r"(?<=\S) |(?<=[\u4e00-\u9fa5\u3041-\u3093\u30a1-\u30f6])[，。、！？；：]")
"""A space after a character that is none, or CJK punctuation after a Han or Kana letter: see :class:`TextEncoder`."""

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's and Qwen3's pre-tokeniser."""


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
        rejected: Number of a document that has no chunks, and the value of its :class:`Fate`.
    """

    ids: list[list[int]]
    row: np.ndarray
    chunk: np.ndarray
    char_start: np.ndarray
    char_end: np.ndarray
    truncated: np.ndarray
    rejected: list[tuple[int, str]]


@dataclass(frozen=True)
class Beginning:
    """The first tokens of a text.

    Attributes:
        ids: At most as many ids as asked for.
        char_end: Character after the last one they cover; the text's length where the text is complete.
        complete: Whether they are all of the text.
    """

    ids: list[int]
    char_end: int
    complete: bool


class TextEncoder:
    r"""Plain text to ids, without special tokens.

    Only the beginning of a very long text is tokenised. That gives the ids of the whole text's beginning when the text
    is cut at a *hard boundary*, a place where tokens end whatever stands behind it. For a text ``T`` cut before
    ``T[c]`` as :data:`HARD_BOUNDARY` finds it:

    - *Added tokens* are looked up first. None contains a boundary character (checked when loading), so that none
      reaches over ``c``.
    - *Normalisation.* ``T[c]`` is a starter that composes with nothing before or after it (Unicode annex 15), so that
      NFC and NFD of ``T`` are those of both sides put together. BERT's other steps go character by character.
    - *Qwen's pre-tokeniser* is one regular expression, matched from left to right without look-behind. No match that
      begins before ``c`` takes ``T[c]``: a space only begins a match or follows another space, and punctuation does
      not follow a letter within one. What a match looks at, a run of one class of characters and the one behind it,
      ends at ``c`` at the latest, at the cut as in the text; a run of white space, which a look-ahead inspects, ends
      before ``T[c-1]``. So the matches before ``c`` are the same in both. *BERT's pre-tokeniser* splits at white space
      and around punctuation.
    - The *model* sees one pre-token at a time.

    The ids before a hard boundary are thus the text's own; where they are not more than asked for, a longer beginning
    is tried, in the end the whole text. Other tokenizers read the whole text.
    """

    def __init__(self, path: str) -> None:
        """Loads ``tokenizer.json``.

        Args:
            path: Directory of the checkpoint.

        Raises:
            SettingsError: The directory has no fast tokenizer.
        """
        file = Path(path) / "tokenizer.json"
        if not file.is_file():
            raise SettingsError(f"model.name: {path} has no tokenizer.json; only fast tokenizers are supported")
        whole = json.loads(file.read_text(encoding="utf-8"))
        self.full = Tokenizer.from_str(json.dumps({**whole, "truncation": None, "padding": None}))
        content = _without_control_tokens(whole, keep_added=not _is_qwen3(path))
        self.text = json.dumps(content, sort_keys=True)
        self.plain = Tokenizer.from_str(self.text)
        if any(self.plain.token_to_id(token["content"]) != token["id"] for token in content["added_tokens"]):
            raise SettingsError("model.name: the tokenizer's added tokens cannot be told from its special tokens")
        self._has_boundaries = _has_hard_boundaries(content)

    def beginnings(self, texts: Sequence[str], limit: int) -> list[Beginning]:
        """The first ``limit`` tokens of each text, the same as if the whole text were tokenised."""
        found: dict[int, Beginning] = {}
        characters = CHARACTERS_PER_TOKEN * limit
        while len(found) < len(texts):
            waiting = [row for row in range(len(texts)) if row not in found]
            prefixes = [self._prefix(texts[row], characters) for row in waiting]
            for row, prefix, encoding in zip(waiting, prefixes, self.encodings(prefixes), strict=True):
                whole = len(prefix) == len(texts[row])
                if len(encoding) > limit:
                    found[row] = Beginning(encoding.ids[:limit], encoding.offsets[limit - 1][1], complete=False)
                elif whole:
                    found[row] = Beginning(encoding.ids, len(prefix), complete=True)
            characters *= 2
        return [found[row] for row in range(len(texts))]

    def encodings(self, texts: Sequence[str]) -> Iterator[Encoding]:
        """Encodings of whole texts, some texts at a time."""
        start = size = 0
        for row, text in enumerate(texts):
            size += len(text)
            if size >= ENCODED_CHARACTERS:
                yield from self.plain.encode_batch(texts[start : row + 1], add_special_tokens=False)
                start, size = row + 1, 0
        yield from self.plain.encode_batch(texts[start:], add_special_tokens=False)

    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and behind a text."""
        bare = self.full.encode("a", add_special_tokens=False).ids
        framed = self.full.encode("a").ids
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                return framed[:start], framed[start + len(bare) :]
        raise SettingsError("model.name: the tokenizer's template changes the text's own tokens")

    def _prefix(self, text: str, characters: int) -> str:
        """At most ``characters`` of the text up to a hard boundary, or the whole text where none is near."""
        if len(text) <= characters or not self._has_boundaries:
            return text
        found = HARD_BOUNDARY.finditer(text, max(0, characters - SEARCHED_CHARACTERS), characters + 1)
        return text[: max((match.start() for match in found), default=len(text))]


def _without_control_tokens(tokenizer: dict[str, Any], *, keep_added: bool) -> dict[str, Any]:
    """A tokenizer that reads the spelling of special tokens, or of all added ones, as text.

    ``Tokenizer.encode_special_tokens`` does the same but is lost when a tokenizer is copied, as the splitter does.
    """
    added = [token for token in tokenizer["added_tokens"] if keep_added and not token["special"]]
    model = tokenizer["model"]
    if isinstance(model["vocab"], dict):
        # Ids of added tokens are counted up from the vocabulary's size unless they are in it.
        model = {**model, "vocab": model["vocab"] | {token["content"]: token["id"] for token in added}}
    unused = {"post_processor": None, "truncation": None, "padding": None}
    return {**tokenizer, "model": model, "added_tokens": added, **unused}


def _has_hard_boundaries(tokenizer: dict[str, Any]) -> bool:
    """Whether the argument of :class:`TextEncoder` holds for a tokenizer."""
    added = "".join(token["content"] for token in tokenizer["added_tokens"])
    if re.search(r"[\s，。、！？；：]", added):
        return False
    steps = tokenizer["pre_tokenizer"] or {}
    normalizer = (tokenizer["normalizer"] or {}).get("type")
    if steps.get("type") == "BertPreTokenizer":
        return normalizer in (None, "BertNormalizer")
    match steps.get("pretokenizers"):
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return bool(pattern == SPLIT_PATTERN) and normalizer in (None, "NFC")
    return False


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


class EmbedTokenizer:
    """Documents and queries to the ids an embedding model reads.

    Qwen3 models get their text and the end token, whose position is the one that is pooled, and queries their
    instruction; other models get the special tokens of their own tokenizer and queries as they are.
    """

    def __init__(
        self,
        path: str,
        max_tokens: int,
        overflow: Overflow = "truncate",
        chunk_overlap: int = 64,
        instruction: str = INSTRUCTION,
    ) -> None:
        """Loads the tokenizer of a checkpoint.

        Args:
            path: Directory of the checkpoint.
            max_tokens: Most ids of a chunk, special tokens included.
            overflow: What becomes of a document with more: its beginning, several chunks, or the quarantine.
            chunk_overlap: Most tokens that neighbouring chunks share.
            instruction: The task put before queries, for models that follow instructions.

        Raises:
            SettingsError: No fast tokenizer, no end token in it, or ``max_tokens`` leaves no room for text.
        """
        self._encoder = TextEncoder(path)
        qwen3 = _is_qwen3(path)
        self.query_template = QUERY_TEMPLATE if qwen3 else "{query}"
        self._end = _token(self._encoder, END_TOKEN) if qwen3 else None
        # Qwen3-Embedding's tokenizer.json appends the end token and base Qwen3's does not: both get exactly one.
        self._before, self._behind = self._encoder.frame() if self._end is None else ([], [self._end])
        self._limit = max_tokens - len(self._before) - len(self._behind)
        if self._limit < 1:
            raise SettingsError(f"model.max_tokens: {max_tokens} leaves no room beside the special tokens")
        self._overflow = overflow
        self._overlap = chunk_overlap
        self._instruction = instruction

    @cached_property
    def digest(self) -> str:
        """Digest of everything that changes the ids of a document, and of the query template."""
        overlap = self._overlap if self._overflow == "chunk" else None
        parts = [self._encoder.text, self._before, self._behind, self._limit, self._overflow, overlap]
        return _digest([self.query_template, *parts])

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
        for row, beginning in enumerate(self._encoder.beginnings(texts, self._limit)):
            if not beginning.ids:
                rejected.append((row, Fate.NO_TOKENS.value))
            elif beginning.complete or self._overflow == "truncate":
                chunks.add(row, 0, 0, beginning)
            elif self._overflow == "quarantine":
                rejected.append((row, Fate.TOO_LONG.value))
            else:
                long.append(row)
        self._split([texts[row] for row in long], long, chunks)
        return chunks.batch(self._framed(chunks.ids), rejected)

    def queries(self, texts: Sequence[str], instructions: Sequence[str | None] | None = None) -> list[list[int]]:
        """Token ids of queries, in their template; a query that is too long is cut.

        Args:
            texts: The queries.
            instructions: One instruction per query; ``None`` for the one given at the start.

        Returns:
            Token ids of each query.
        """
        tasks = [self._instruction if task is None else task for task in instructions or [None] * len(texts)]
        prompts = [
            self.query_template.format(instruction=task, query=text) for task, text in zip(tasks, texts, strict=True)
        ]
        return self._framed([beginning.ids for beginning in self._encoder.beginnings(prompts, self._limit)])

    @cached_property
    def _splitter(self) -> TextSplitter:
        return TextSplitter.from_huggingface_tokenizer(self._encoder.plain, self._limit, overlap=self._overlap)

    def _split(self, texts: list[str], rows: list[int], chunks: _Chunks) -> None:
        """Adds the chunks of long texts: as full as sentences, else words, else characters allow."""
        for row, parts in zip(rows, self._splitter.chunk_all_indices(texts) if texts else [], strict=True):
            # A character of more tokens than fit is cut like any text: a chunk never has more than the limit.
            beginnings = self._encoder.beginnings([text for _, text in parts], self._limit)
            spans = ((start, begin) for (start, _), begin in zip(parts, beginnings, strict=True) if begin.ids)
            for number, (start, beginning) in enumerate(spans):
                chunks.add(row, number, start, beginning)

    def _framed(self, bodies: list[list[int]]) -> list[list[int]]:
        framed = [[*self._before, *ids, *self._behind] for ids in bodies]
        if self._end is not None and any(ids[-1] != self._end for ids in framed):
            raise IndexerError("a token row does not end with the end token; its vector would be read elsewhere")
        return framed


@dataclass(frozen=True)
class PairBatch:
    """Token ids of the prompts of some pairs.

    Attributes:
        ids: Token ids of every prompt.
        truncated: bool, shape (pairs,): whether text was cut off.
        second: Place of the document's first token in every prompt, for models that tell both sides apart by token
            types; else ``None``.
    """

    ids: list[list[int]]
    truncated: np.ndarray
    second: list[int] | None


class PairTokenizer:
    """Query and document pairs to the ids a reranker reads.

    Of a pair that is too long only the document is cut, unless the query alone is too long.
    """

    def __init__(self, path: str, max_tokens: int, instruction: str = INSTRUCTION) -> None:
        """Loads the tokenizer of a checkpoint.

        Args:
            path: Directory of the checkpoint.
            max_tokens: Most ids of a prompt, special tokens included.
            instruction: The task put before the query, for models that follow instructions.

        Raises:
            SettingsError: Not a reranker, or ``max_tokens`` leaves no room for a pair.
        """
        encoder = TextEncoder(path)
        if _is_qwen3(path):
            self._template: _Prompt | _TwoSides = _Prompt(encoder, max_tokens, instruction)
        elif _is_classifier(path):
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
    """Qwen3-Reranker: prefix, middle and suffix are tokenised apart and joined as ids, as in the model card's code."""

    def __init__(self, encoder: TextEncoder, max_tokens: int, instruction: str) -> None:
        self._encoder = encoder
        self._prefix = encoder.full.encode(PAIR_PREFIX, add_special_tokens=False).ids
        self._suffix = encoder.full.encode(PAIR_SUFFIX, add_special_tokens=False).ids
        self._limit = _room(max_tokens, self._prefix, self._suffix)
        self._instruction = instruction

    def digest(self, text: str) -> str:
        return _digest([text, PAIR_TEMPLATE, self._prefix, self._suffix, self._limit, self._instruction])

    def pairs(self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]) -> PairBatch:
        middles = [
            PAIR_TEMPLATE.format(
                instruction=self._instruction if task is None else task, query=query, document=document
            )
            for task, query, document in zip(instructions, queries, documents, strict=True)
        ]
        # The document is at the end of what is cut.
        beginnings = self._encoder.beginnings(middles, self._limit)
        ids = [[*self._prefix, *beginning.ids, *self._suffix] for beginning in beginnings]
        return PairBatch(ids, np.array([not beginning.complete for beginning in beginnings], bool), None)


class _TwoSides:
    """Cross-encoders of the BERT kind: their tokenizer's own special tokens around and between both texts."""

    def __init__(self, encoder: TextEncoder, max_tokens: int) -> None:
        self._encoder = encoder
        self._before, self._between, self._behind, self._typed = _pair_frame(encoder)
        self._limit = _room(max_tokens, self._before, self._between, self._behind)

    def digest(self, text: str) -> str:
        return _digest([text, self._before, self._between, self._behind, self._limit])

    def pairs(self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]) -> PairBatch:
        if any(instructions):
            raise SettingsError("this model takes no instruction; leave instruction_column out")
        firsts = self._encoder.beginnings(queries, self._limit)
        seconds = self._encoder.beginnings(documents, self._limit)
        ids, truncated, starts = [], [], []
        for query, document in zip(firsts, seconds, strict=True):
            head = [*self._before, *query.ids, *self._between]
            room = self._limit - len(query.ids)
            starts.append(len(head))
            ids.append([*head, *document.ids[:room], *self._behind])
            truncated.append(not (query.complete and document.complete) or len(document.ids) > room)
        return PairBatch(ids, np.array(truncated, bool), starts if self._typed else None)


def _room(max_tokens: int, *special: Sequence[int]) -> int:
    limit = max_tokens - sum(map(len, special))
    if limit < 1:
        raise SettingsError(f"model.max_tokens: {max_tokens} leaves no room for a pair")
    return limit


def _pair_frame(encoder: TextEncoder) -> tuple[list[int], list[int], list[int], bool]:
    """Special tokens before, between and behind two texts, and whether the second one has token types of its own."""
    bare = encoder.full.encode("a", add_special_tokens=False).ids
    framed = encoder.full.encode("a", "a")
    found = [at for at in range(len(framed.ids)) if framed.ids[at : at + len(bare)] == bare]
    if len(found) != len(("query", "document")):
        raise SettingsError("model.name: the tokenizer's template for pairs changes the texts' own tokens")
    first, second = found
    between = framed.ids[first + len(bare) : second]
    return framed.ids[:first], between, framed.ids[second + len(bare) :], framed.type_ids[second] == 1


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()


def _architectures(path: str) -> list[str]:
    config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    return [*(config.get("architectures") or []), f"{config.get('model_type')}"]


def _is_qwen3(path: str) -> bool:
    return any(name.lower().startswith("qwen3") for name in _architectures(path))


def _is_classifier(path: str) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in _architectures(path))


def _token(encoder: TextEncoder, token: str) -> int:
    found = encoder.full.token_to_id(token)
    if found is None:
        raise SettingsError(f"model.name: the tokenizer has no token {token}")
    return int(found)
