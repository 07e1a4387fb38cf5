"""fastokens instead of ``tokenizers``, if both give the same ids for a checkpoint.

``tokenizers`` is the reference. fastokens supports fewer kinds of tokenizers and gives no offsets. It is 15 to 20 times
faster for byte-pair encodings such as Qwen's.
"""

import numpy as np
from tokenizers import Tokenizer

from indexer import fallbacks
from indexer.inference.sequences import TokenSequences

HOSTILE = (
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t \n x",
    " leading",
    "trailing ",
    "a\u00a0b",
    "\u3000x\u3000",
    "\ufeffbom",
    "a\x00b",
    "It's we'LL I'M they'd'VE",
    "don\u2019t",
    "3.14159 1,000,000 v2.0-rc1",
    "\u0661\u0662\u0663 \u0967\u0968 \u2460\u00bd",
    "caf\u00e9 cafe\u0301 \u212bngstr\u00f6m \u1e9b\u0323 \ufb01ne",
    "e\u0301\u0301\u0301 \u0315\u0300a",
    "\u1112\u1161\u11ab \ud55c",
    "\u4e2d\u6587\uff0c\u6ca1\u6709\u7a7a\u683c\u3002\u300c\u5f15\u7528\u300d",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\u30ab\u30bf\u30ab\u30ca",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0915\u094d\u0937",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u202bRTL\u202c \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0442\u0435\u043a\u0441\u0442",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac\u037e \u03c2\u03c3\u03a3",
    "\u0130I\u0131i \u1e9e\u00df",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2764\ufe0f",
    "\U00020000\U0001d400 \ue000 \ufffd \uffff \U0010ffff",
    "\u200b\u200c\u200d\u2060",
    "def f(x):\n    return {'a': [1, 2]}  # \ttab\n\n\n",
    '<div class="x">&amp;</div>',
    "SELECT * FROM t WHERE a<>'b';--",
    "https://example.com/a?b=c&d=%20#e",
    "a@b.co /usr/bin C:\\x\\y",
    "\\frac{a}{b} $x^2$ \u222b\u2211\u221e",
    "!!!???...---===___~~~",
    "<|endoftext|> <|im_start|>user\n<think></think> <tool_call>",
    "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "<s></s><pad><unk>",
    "a" * 300,
    "ab " * 100,
    " " * 100,
    "\n" * 50,
    "\U0001f600" * 40,
    "\u4e2d" * 100,
    "1" * 60,
    "x\u0301" * 60,
    "-" * 200,
)
"""Texts that expose differences: white space, contractions, composed letters, scripts, emoji, control tokens."""


class FastTokenizer:
    """Turns whole texts into ids, without special tokens."""

    def __init__(self, content: str) -> None:
        """Loads a tokenizer.

        Args:
            content: Content of ``tokenizer.json``.

        Raises:
            ValueError: fastokens does not support this kind of tokenizer.
        """
        from fastokens._native import Tokenizer as Native

        self._native = Native.from_json_str(content)

    def encode(self, texts: list[str]) -> TokenSequences:
        """Ids of texts."""
        flat, offsets = self._native.encode_batch_flat(texts)
        ids = np.frombuffer(flat, "<u4").astype(np.int32)
        return TokenSequences(ids, np.diff(np.frombuffer(offsets, "<u8").astype(np.int64)).astype(np.int32))


def reference_ids(tokenizer: Tokenizer, texts: list[str]) -> TokenSequences:
    """Ids of texts by ``tokenizers``, without special tokens."""
    return TokenSequences.of(encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))


_known: dict[str, FastTokenizer | None] = {}
"""By the content of ``tokenizer.json``: a process loads and proves each once."""


def fast_tokenizer(content: str, reference: Tokenizer) -> FastTokenizer | None:
    """fastokens for a tokenizer; ``None`` if it fails or gives other ids on :data:`HOSTILE`, which is said once.

    Args:
        content: What ``tokenizer.json`` holds.
        reference: The same tokenizer, as ``tokenizers`` loads it.
    """
    if content not in _known:
        _known[content] = _proven(content, reference)
    return _known[content]


def _proven(content: str, reference: Tokenizer) -> FastTokenizer | None:
    """fastokens, compared with the reference."""
    try:
        fast = FastTokenizer(content)
        found = fast.encode(list(HOSTILE))
    except ImportError:
        fallbacks.take("fastokens is not installed: texts are tokenised by tokenizers, which takes 15 times as long")
        return None
    except Exception as error:  # noqa: BLE001  # whatever the error, tokenizers can do the work
        fallbacks.take(f"texts are tokenised by tokenizers, since fastokens cannot: {error}")
        return None
    expected = reference_ids(reference, list(HOSTILE))
    differing = [row for row in range(len(HOSTILE)) if not np.array_equal(found[row], expected[row])]
    if differing:
        fallbacks.take(
            f"texts are tokenised by tokenizers: fastokens gives other ids for {len(differing)} of {len(HOSTILE)} texts"
        )
        return None
    return fast
