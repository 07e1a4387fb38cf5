"""Texts to token ids: the encoder below documents, queries and pairs.

The tokenizer is the checkpoint's ``tokenizer.json``, run in batches in Rust without the GIL. Its special tokens are
removed before use, so that their spelling inside a text stays ordinary text and never acts as a control token. The end
token and BERT's ``[CLS]`` and ``[SEP]`` are added around the ids afterwards. From Qwen3's tokenizer all added tokens
are removed, also ``<think>`` and ``<tool_call>``, which it does not mark as special: they shape its turns. Added tokens
of other models, which may be runs of white space or markup, keep their ids.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from indexer.errors import SettingsError
from indexer.inference.fast_tokenizer import fast_tokenizer, reference_ids
from indexer.inference.sequences import TokenSequences

VERSION = 2
"""Raised when this module would give other ids for the same text; part of every fingerprint."""

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""Default instruction of Qwen3's model cards."""

CHARACTERS_PER_TOKEN = 6
"""First guess at the prefix that holds the kept tokens; above most texts' rate, so that one pass mostly does."""

ENCODED_CHARACTERS = 1 << 21
"""Characters given to the tokenizer at once: its results take some 150 bytes per token until their ids are read."""

SEARCHED_CHARACTERS = 4096
"""Characters that are searched backwards for a boundary."""

HARD_BOUNDARY = re.compile(r"(?<=\S) |(?<=[\u4e00-\u9fa5\u3041-\u3093\u30a1-\u30f6])[，。、！？；：]")
"""A space after other than white space, or CJK punctuation after a Han or Kana letter: see :class:`TextEncoder`."""

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's and Qwen3's pre-tokeniser."""


@dataclass(frozen=True)
class Beginnings:
    """The first tokens of some texts.

    Attributes:
        ids: Ids of each text, at most the requested number.
        char_end: int64, shape (texts,): character after the last one that the ids cover; the text's length if complete.
        complete: bool, shape (texts,): whether the ids cover the whole text.
    """

    ids: TokenSequences
    char_end: np.ndarray
    complete: np.ndarray

    def take(self, rows: np.ndarray) -> "Beginnings":
        """The beginnings of some texts."""
        return Beginnings(self.ids.take(rows), self.char_end[rows], self.complete[rows])

    @staticmethod
    def join(parts: Sequence["Beginnings"]) -> "Beginnings":
        """Concatenates several batches in their order."""
        return Beginnings(
            TokenSequences.join([part.ids for part in parts]),
            np.concatenate([part.char_end for part in parts]),
            np.concatenate([part.complete for part in parts]),
        )


class TextEncoder:
    r"""Plain text to ids, without special tokens.

    Only the beginning of a very long text is tokenised. Its ids equal the whole text's first ids if the text is cut at
    a *hard boundary*: a place where tokens end, whatever follows. For a text ``T`` cut before ``T[c]``, as
    :data:`HARD_BOUNDARY` finds it:

    - *Added tokens* are looked up first. None contains a boundary character (checked when loading), so that none
      reaches over ``c``.
    - *Normalisation.* ``T[c]`` is a starter that composes with nothing before or after it (Unicode annex 15). So NFC
      and NFD of ``T`` are the concatenated NFC and NFD of both sides. BERT's other steps go character by character.
    - *Qwen's pre-tokeniser* is one regular expression, matched from left to right without look-behind. No match that
      begins before ``c`` includes ``T[c]``. A space only begins a match or follows another space; punctuation does not
      follow a letter within one. A match inspects a run of one class of characters and the character behind it. Both
      end at ``c`` at the latest, in the cut text as in the whole one. A run of white space, which a look-ahead
      inspects, ends before ``T[c-1]``. So the matches before ``c`` are the same in both. *BERT's pre-tokeniser* splits
      at white space and around punctuation.
    - The *model* processes one pre-token at a time.

    The ids before a hard boundary are thus the text's own. If they are not more than requested, a longer beginning is
    tried, in the end the whole text. Other tokenizers read the whole text.
    """

    def __init__(self, file: Path, *, lower_case: bool, keep_added: bool) -> None:
        """Loads ``tokenizer.json``; :func:`text_encoder` gives the encoder of a checkpoint."""
        whole = json.loads(file.read_text(encoding="utf-8"))
        self._file = str(file)
        self.special = [token["content"] for token in whole["added_tokens"] if token["special"]]
        content = _without_control_tokens(whole, keep_added=keep_added)
        if lower_case:
            content["normalizer"] = _lower_cased(content["normalizer"])
        self.text = json.dumps(content, sort_keys=True)
        self.plain = Tokenizer.from_str(self.text)
        if any(self.plain.token_to_id(token["content"]) != token["id"] for token in content["added_tokens"]):
            raise SettingsError("model.name: the tokenizer's added tokens cannot be told from its special tokens")
        self._has_boundaries = _has_hard_boundaries(content)

    @cached_property
    def full(self) -> Tokenizer:
        """The tokenizer with its control tokens and its template, without a limit."""
        tokenizer = Tokenizer.from_file(self._file)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def beginnings(self, texts: Sequence[str], limit: int) -> Beginnings:
        """The first ``limit`` tokens of each text, the same as if the whole text were tokenised."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        characters = CHARACTERS_PER_TOKEN * limit
        waiting, order, found = np.arange(len(texts)), [np.empty(0, np.int64)], [_nothing()]
        while waiting.size:
            prefixes = [self._prefix(texts[row], characters) for row in waiting.tolist()]
            ends = np.fromiter(map(len, prefixes), np.int64, len(prefixes))
            ids = self.encode(prefixes)
            cut = ids.lengths > limit
            whole = ~cut & (ends == lengths[waiting])
            found += [Beginnings(ids.take(whole), ends[whole], np.ones(whole.sum(), bool))]
            found += [self._cut([prefixes[row] for row in np.flatnonzero(cut)], limit)]
            order += [waiting[whole], waiting[cut]]
            # The beginning of each remaining text had too few tokens: read more of it.
            waiting = waiting[~cut & ~whole]
            characters *= 2
        return Beginnings.join(found).take(np.argsort(np.concatenate(order)))

    def encode(self, texts: Sequence[str]) -> TokenSequences:
        """Ids of whole texts, encoded in portions."""
        return TokenSequences.join([self._ids(part) for part in _parts(texts)])

    def _ids(self, texts: list[str]) -> TokenSequences:
        """Ids of one portion, by fastokens if it is proven for this tokenizer."""
        fast = fast_tokenizer(self.text, self.plain)
        return reference_ids(self.plain, texts) if fast is None else fast.encode(texts)

    def _cut(self, texts: list[str], limit: int) -> Beginnings:
        """The first ``limit`` tokens of texts that have more. Only ``tokenizers`` gives the place where they end."""
        ids, ends = [], []
        for part in _parts(texts):
            for encoding in self.plain.encode_batch(part, add_special_tokens=False):
                ids.append(np.array(encoding.ids[:limit], np.int32))
                ends.append(encoding.offsets[limit - 1][1])
        return Beginnings(TokenSequences.of(ids), np.array(ends, np.int64), np.zeros(len(ends), bool))

    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and behind a text."""
        bare = self.full.encode("a", add_special_tokens=False).ids
        framed = self.full.encode("a").ids
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                return framed[:start], framed[start + len(bare) :]
        raise SettingsError("model.name: the tokenizer's template changes the text's own tokens")

    def _prefix(self, text: str, characters: int) -> str:
        """At most ``characters`` of the text up to a hard boundary, or the whole text if none is near."""
        if len(text) <= characters or not self._has_boundaries:
            return text
        found = HARD_BOUNDARY.finditer(text, max(0, characters - SEARCHED_CHARACTERS), characters + 1)
        return text[: max((match.start() for match in found), default=len(text))]


def text_encoder(path: str, *, lower_case: bool = False) -> TextEncoder:
    """The encoder of a checkpoint. A process loads each file once: Qwen3's 151,643 words take seconds.

    Args:
        path: Directory of the checkpoint.
        lower_case: Whether texts are made lower case first; a tokenizer that does so itself stays as it is.

    Raises:
        SettingsError: The directory has no fast tokenizer.
    """
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        raise SettingsError(f"model.name: {path} has no tokenizer.json; only fast tokenizers are supported")
    status = file.stat()
    return _loaded(file, lower_case, not is_qwen3(path), (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _loaded(file: Path, lower_case: bool, keep_added: bool, written: tuple[int, int]) -> TextEncoder:  # noqa: ARG001,FBT001  # a key
    """An encoder by what decides about it: the file as it was written, and the arguments."""
    return TextEncoder(file, lower_case=lower_case, keep_added=keep_added)


def _nothing() -> Beginnings:
    """Beginnings of no texts."""
    return Beginnings(TokenSequences.of([]), np.empty(0, np.int64), np.empty(0, bool))


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Cuts texts into portions, so that a tokenizer's results stay small."""
    start = size = 0
    for row, text in enumerate(texts, 1):
        size += len(text)
        if size >= ENCODED_CHARACTERS or row == len(texts):
            yield list(texts[start:row])
            start, size = row, 0


def _without_control_tokens(tokenizer: dict[str, Any], *, keep_added: bool) -> dict[str, Any]:
    """A tokenizer that reads the spelling of special tokens, or of all added ones, as text.

    ``Tokenizer.encode_special_tokens`` does the same, but a copied tokenizer loses it, and the splitter makes a copy.
    """
    added = [token for token in tokenizer["added_tokens"] if keep_added and not token["special"]]
    model = tokenizer["model"]
    if isinstance(model["vocab"], dict):
        # tokenizers numbers added tokens from the vocabulary's size on, unless the vocabulary has them.
        model = {**model, "vocab": model["vocab"] | {token["content"]: token["id"] for token in added}}
    unused = {"post_processor": None, "truncation": None, "padding": None}
    return {**tokenizer, "model": model, "added_tokens": added, **unused}


def _lower_cased(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    """A normaliser that makes texts lower case before its other steps; one that does so anyway stays as it is."""
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if normalizer and any(step["type"] == "Lowercase" or step.get("lowercase") for step in steps):
        return normalizer
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}


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


def tokenizer_digest(parts: list[object]) -> str:
    """Digest of everything that turns a text into ids, JSON-ready."""
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()


def _architectures(path: str) -> list[str]:
    """Names of the checkpoint's architectures and its model type."""
    config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    return [*(config.get("architectures") or []), f"{config.get('model_type')}"]


def is_qwen3(path: str) -> bool:
    """Whether the checkpoint is a Qwen3."""
    return any(name.lower().startswith("qwen3") for name in _architectures(path))


def is_classifier(path: str) -> bool:
    """Whether the checkpoint classifies sequences."""
    return any(name.endswith("ForSequenceClassification") for name in _architectures(path))


def token_id(encoder: TextEncoder, token: str) -> int:
    """Id of a token; raises :class:`SettingsError` if the tokenizer lacks it."""
    found = encoder.full.token_to_id(token)
    if found is None:
        raise SettingsError(f"model.name: the tokenizer has no token {token}")
    return int(found)
