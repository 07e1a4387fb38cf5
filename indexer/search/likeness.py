"""How many words of a question a text has, about as a full-text index sees them: folded, by stems, without spaces."""

import re
import unicodedata
from collections.abc import Sequence

WORD = re.compile(r"\w+")

LEAST_BEGINNING = 3
"""Letters from which two words that begin alike may be forms of one: "run" and "running"."""


def words_of(text: str) -> list[str]:
    """Words of a text without case and accents."""
    folded = text.casefold()
    if not folded.isascii():
        folded = "".join(one for one in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(one))
    return WORD.findall(folded)


def likeness(wanted: Sequence[str], text: str) -> tuple[int, float]:
    """How many words a text has, and how much of the others.

    Args:
        wanted: Words of the question, each once, as :func:`words_of` gives them.
        text: The text.

    Returns:
        Words that it has, and for each other one the share of it that begins a word of the text. Of a word of letters
        without case, as in Chinese, which puts no spaces between words, the share of its pairs of letters.
    """
    words = dict.fromkeys(words_of(text))
    joined = f" {' '.join(words)}"
    return sum(word in words for word in wanted), sum(_share(word, joined) for word in wanted if word not in words)


def _share(word: str, joined: str) -> float:
    if any(unicodedata.category(letter) == "Lo" for letter in word):
        pairs = {word[at : at + 2] for at in range(max(len(word) - 1, 1))}
        return sum(pair in joined for pair in pairs) / len(pairs)
    lengths = range(len(word), LEAST_BEGINNING - 1, -1)
    return next((length for length in lengths if f" {word[:length]}" in joined), 0) / len(word)
