"""Sections about search: the tokenizer of full-text search, and how questions are answered."""

from typing import Literal, Self

from pydantic import Field, model_validator

from indexer.job_settings import Section

Mode = Literal["vector", "text", "hybrid"]
"""By vectors, by words, or by both, fused."""

Language = Literal[
    "Arabic", "Danish", "Dutch", "English", "Finnish", "French", "German", "Greek", "Hungarian", "Italian", "Norwegian",
    "Portuguese", "Romanian", "Russian", "Spanish", "Swedish", "Tamil", "Turkish",
]  # fmt: skip
"""Languages with a stemmer in LanceDB."""


class TextSettings(Section):
    """How full-text search cuts texts into words."""

    tokenizer: Literal["simple", "icu", "ngram"] = Field(
        "simple",
        description="simple: at white space and punctuation; icu: by Unicode's rules and dictionaries, for Chinese, "
        "Japanese and Thai too; ngram: sequences of characters, for any language and parts of words",
    )
    language: Language = Field("English", description="language of stemming and stop words")
    stem: bool = Field(default=True, description="reduce words to their stem; not with ngram")
    stop_words: bool = Field(
        default=True, description="leave out the most frequent words of the language; not with ngram"
    )
    ascii_folding: bool = Field(default=True, description="find letters with accents without them, and the reverse")
    min_ngram: int = Field(2, ge=1, description="least characters of an n-gram; read with tokenizer = ngram")
    max_ngram: int = Field(3, ge=1, description="most characters of an n-gram; read with tokenizer = ngram")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.min_ngram > self.max_ngram:
            raise ValueError("min_ngram must not be above max_ngram")
        return self


class AnswerSettings(Section):
    """How jobs.search answers, unless a flag says otherwise."""

    mode: Mode = Field("vector", description="vector, text, or hybrid: both, fused by reciprocal rank")
    width: int | None = Field(None, description="width to search at; default: the widest")
    oversample: int = Field(
        1, ge=1, description="search for this many times the results and keep the best at full width"
    )
    candidates: int = Field(
        100, ge=1, description="results per question that the reranker orders; read with [reranker]"
    )
