"""A user's own corpus as the work of every contender: a sample of its texts, and how many it has in all."""

import random
from dataclasses import dataclass, replace

from benchmarks.support.workload import Work, write
from indexer.corpus.documents import Corpus, first_texts, open_corpus
from indexer.settings import CorpusSettings

FILES = 16
"""Files that the sample is drawn from."""


@dataclass(frozen=True)
class WholeCorpus:
    """What the sample stands for.

    Attributes:
        documents: Rows of all files.
        files: Files.
    """

    documents: int
    files: int


def prepare(work: Work, settings: CorpusSettings) -> tuple[Work, WholeCorpus]:
    """Draws a sample and counts the corpus.

    Args:
        work: Folder, checkpoint, dtype and most documents.
        settings: Where the corpus is, and its columns.

    Returns:
        The work on the sample, and the whole corpus.

    Raises:
        CorpusError: The corpus cannot be read, or has no text.
    """
    corpus = open_corpus(settings)
    drawn = random.Random(0).sample(corpus.files, min(FILES, len(corpus.files)))  # noqa: S311  # a sample
    each = -(-work.documents // len(drawn))
    texts = [text for file in drawn for text in first_texts(corpus, file, each) if text.strip()][: work.documents]
    if not texts:
        raise SystemExit(f"corpus: none of {len(drawn)} files has a text in its first {each} rows")
    counted = WholeCorpus(sum(_rows(corpus, at) for at in range(len(corpus.files))), len(corpus.files))
    return write(replace(work, documents=len(texts)), _cut(work, texts)), counted


def _cut(work: Work, texts: list[str]) -> list[str]:
    """The texts without what is above the model's limit, at a space: some peers refuse longer ones."""
    ends = work.model.tokenizer.documents(texts).char_end
    cut = [text[:end] for text, end in zip(texts, ends.tolist(), strict=True)]
    return [part if part == text else part.rpartition(" ")[0] or part for part, text in zip(cut, texts, strict=True)]


def _rows(corpus: Corpus, at: int) -> int:
    """Rows of a file."""
    with corpus.open(corpus.files[at]) as opened:
        return opened.count_rows()
