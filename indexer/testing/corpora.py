"""Small corpora of random texts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def tiny_corpus(
    path: str | Path,
    documents: int = 200,
    *,
    files: int = 3,
    rows_per_group: int = 20,
    words: tuple[int, int] = (10, 120),
    seed: int = 0,
) -> str:
    """Writes a small corpus: several Parquet files of several row groups, columns ``id``, ``text`` and ``kind``.

    Args:
        path: Directory, made when missing.
        documents: Documents in all files together.
        files: Files to spread them over.
        rows_per_group: Rows of one row group.
        words: Least and most words of a text.
        seed: Seed of the texts.

    Returns:
        The directory.
    """
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": [f"doc-{row:05d}" for row in range(documents)],
            "text": random_texts(documents, words=words, seed=seed),
            "kind": [("page", "note", "code")[row % 3] for row in range(documents)],
        }
    )
    rows = -(-documents // files)
    for number in range(files):
        part = table.slice(number * rows, rows)
        pq.write_table(part, root / f"part-{number:03d}.parquet", row_group_size=rows_per_group)
    return str(root)


def random_texts(count: int, *, words: tuple[int, int] = (10, 120), seed: int = 0) -> list[str]:
    """English-like texts of a number of words drawn evenly from ``words``, both ends included."""
    generator = np.random.default_rng(seed)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    vocabulary = ["".join(generator.choice(syllables, generator.integers(1, 4))) for _ in range(5000)]
    lengths = generator.integers(words[0], words[1], count, endpoint=True)
    return [" ".join(vocabulary[word] for word in generator.integers(0, 5000, length)) for length in lengths]
