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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from indexer.errors import SettingsError
from indexer.inference.fast_tokenizer import fast_tokenizer, reference_ids
from indexer.inference.sequences import TokenSequences

VERSION = 2
"""Raised when this module gives other ids for the same text; part of every fingerprint."""

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""The instruction Qwen3's model cards use when there is none."""

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
class Beginnings:
    """The first tokens of some texts.

    Attributes:
        ids: At most as many ids of each text as asked for.
        char_end: int64, shape (texts,): character after the last one they cover; the text's length where it is
            complete.
        complete: bool, shape (texts,): whether they are all of the text.
    """

    ids: TokenSequences
    char_end: np.ndarray
    complete: np.ndarray

    def take(self, rows: np.ndarray) -> "Beginnings":
        """Those of some texts."""
        return Beginnings(self.ids.take(rows), self.char_end[rows], self.complete[rows])

    @staticmethod
    def join(parts: Sequence["Beginnings"]) -> "Beginnings":
        """Those of several, one behind the other."""
        return Beginnings(
            TokenSequences.join([part.ids for part in parts]),
            np.concatenate([part.char_end for part in parts]),
            np.concatenate([part.complete for part in parts]),
        )


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

    def __init__(self, path: str, *, lower_case: bool = False) -> None:
        """Loads ``tokenizer.json``.

        Args:
            path: Directory of the checkpoint.
            lower_case: Whether texts are made lower case first, where the tokenizer does not do so itself.

        Raises:
            SettingsError: The directory has no fast tokenizer.
        """
        file = Path(path) / "tokenizer.json"
        if not file.is_file():
            raise SettingsError(f"model.name: {path} has no tokenizer.json; only fast tokenizers are supported")
        whole = json.loads(file.read_text(encoding="utf-8"))
        self.full = Tokenizer.from_str(json.dumps({**whole, "truncation": None, "padding": None}))
        self.special = [token["content"] for token in whole["added_tokens"] if token["special"]]
        content = _without_control_tokens(whole, keep_added=not is_qwen3(path))
        if lower_case:
            content["normalizer"] = _lower_cased(content["normalizer"])
        self.text = json.dumps(content, sort_keys=True)
        self.plain = Tokenizer.from_str(self.text)
        if any(self.plain.token_to_id(token["content"]) != token["id"] for token in content["added_tokens"]):
            raise SettingsError("model.name: the tokenizer's added tokens cannot be told from its special tokens")
        self._has_boundaries = _has_hard_boundaries(content)

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
            # Of the others more is read: the beginning looked at had too few tokens.
            waiting = waiting[~cut & ~whole]
            characters *= 2
        return Beginnings.join(found).take(np.argsort(np.concatenate(order)))

    def encode(self, texts: Sequence[str]) -> TokenSequences:
        """Ids of whole texts, some texts at a time."""
        return TokenSequences.join([self._ids(part) for part in _parts(texts)])

    def _ids(self, texts: list[str]) -> TokenSequences:
        fast = fast_tokenizer(self.text)
        return reference_ids(self.plain, texts) if fast is None else fast.encode(texts)

    def _cut(self, texts: list[str], limit: int) -> Beginnings:
        """The first ``limit`` tokens of texts that have more. Where they end, only ``tokenizers`` can tell."""
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
        """At most ``characters`` of the text up to a hard boundary, or the whole text where none is near."""
        if len(text) <= characters or not self._has_boundaries:
            return text
        found = HARD_BOUNDARY.finditer(text, max(0, characters - SEARCHED_CHARACTERS), characters + 1)
        return text[: max((match.start() for match in found), default=len(text))]


def _nothing() -> Beginnings:
    return Beginnings(TokenSequences.of([]), np.empty(0, np.int64), np.empty(0, bool))


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Some texts at a time, so that what a tokenizer holds of them stays small."""
    start = size = 0
    for row, text in enumerate(texts, 1):
        size += len(text)
        if size >= ENCODED_CHARACTERS or row == len(texts):
            yield list(texts[start:row])
            start, size = row, 0


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


def _lower_cased(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    """A normaliser that makes texts lower case before its other steps; one that does so anyway as it is."""
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
    config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    return [*(config.get("architectures") or []), f"{config.get('model_type')}"]


def is_qwen3(path: str) -> bool:
    """Whether the checkpoint is a Qwen3."""
    return any(name.lower().startswith("qwen3") for name in _architectures(path))


def is_classifier(path: str) -> bool:
    """Whether the checkpoint classifies sequences."""
    return any(name.endswith("ForSequenceClassification") for name in _architectures(path))


def token_id(encoder: TextEncoder, token: str) -> int:
    """Id of a token; raises :class:`SettingsError` where the tokenizer has none."""
    found = encoder.full.token_to_id(token)
    if found is None:
        raise SettingsError(f"model.name: the tokenizer has no token {token}")
    return int(found)
