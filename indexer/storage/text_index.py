"""Full-text indices (BM25) on payload columns: builds them, searches them, proves that documents are found."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import lance
import pyarrow as pa
from lance.query import CombinedFieldsQuery

from indexer import schema
from indexer.errors import SettingsError, first_line
from indexer.storage.description import TextRecord
from indexer.storage.filters import key_is
from indexer.storage.index_spec import IndexSpec
from indexer.storage.tables import open_version

SCORE = "_score"
"""Column that Lance adds to results: BM25."""

INVERTED = "Inverted"
"""What Lance calls the type."""

MOST_CHARACTERS = 10_000
"""Characters of a query that are searched: ten times what a person types, and 100 kB of words would take seconds."""

PROBED = 20
"""Documents of a table that must be found by words of theirs before an epoch is published."""

PROBE_POOL = 500
"""Documents among which the words of the probed ones must be rare."""

PROBE_WORDS = range(4, 9)
"""Words to find a document by: with fewer it is not probed, more are not needed."""

TOKEN_BYTES = 40
"""Longer words are left out of the index."""

LETTERS = re.compile(r"[^\W\d_]{5}")
"""Pattern that a word to find a document by must contain, so that it is hardly a stop word."""


def index_name(column: str) -> str:
    """Name of a column's full-text index."""
    return f"{column}_text"


def parameters(text: TextRecord) -> dict[str, Any]:
    """Tokenizer parameters by Lance's names, as its statistics give them back."""
    is_ngram = text.tokenizer == "ngram"
    grams = {"min_ngram_length": text.min_ngram, "max_ngram_length": text.max_ngram} if is_ngram else {}
    return {
        "base_tokenizer": text.tokenizer,
        "language": text.language,
        # Stems and stop words are of words: n-grams have none.
        "stem": text.stem and not is_ngram,
        "remove_stop_words": text.stop_words and not is_ngram,
        "ascii_folding": text.ascii_folding,
        "with_position": False,
        **grams,
    }


def spec(column: str, text: TextRecord) -> IndexSpec:
    """A full-text index on a column."""
    return IndexSpec(index_name(column), column, "INVERTED", parameters(text))


def is_built(dataset: lance.LanceDataset, column: str, text: TextRecord) -> bool:
    """Whether a column has a full-text index with these parameters."""
    wanted = parameters(text)
    if index_name(column) not in {found.name for found in dataset.describe_indices()}:
        return False
    segments = dataset.stats.index_stats(index_name(column))["indices"]
    # Lance tells no parameters of a segment without rows. An index of such segments alone is quickly built again.
    told = [segment["params"] for segment in segments if "params" in segment]
    return bool(told) and all(wanted.items() <= parameters.items() for parameters in told)


def indexed_columns(dataset: lance.LanceDataset) -> list[str]:
    """Columns with a full-text index of ours, in the order of the table."""
    names = {found.name for found in dataset.describe_indices() if found.index_type == INVERTED}
    return [column for column in dataset.schema.names if index_name(column) in names]


def search(
    dataset: lance.LanceDataset, query: str, columns: Sequence[str], k: int, where: str | None, shown: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows that share words with a query, best first by BM25F: the columns count as one text.

    A query is a set of words: nothing in it is an operator, so that no text a person types can be wrong.

    Args:
        dataset: The table at a version.
        query: The query; of a very long one the first :data:`MOST_CHARACTERS`.
        columns: Columns with a full-text index.
        k: Rows wanted.
        where: SQL condition that rows must meet, before the search.
        shown: Columns of the rows, id and chunk among them; :data:`SCORE` is added.

    Returns:
        The rows; none for a query without a word.

    Raises:
        SettingsError: The condition is not valid.
    """
    words = query[:MOST_CHARACTERS].encode(errors="replace").decode()  # half a surrogate pair is no text
    try:
        rows = dataset.scanner(
            columns=[*shown, SCORE],
            full_text_query=CombinedFieldsQuery(words, list(columns)),
            filter=where,
            prefilter=True,
            limit=k,
        ).to_table()
    except (ValueError, OSError) as error:
        raise SettingsError(f"the search was refused: {first_line(error)}") from None
    return sorted(rows.to_pylist(), key=lambda row: (-row[SCORE], row[schema.ID], row[schema.CHUNK]))


def share_found(uri: str, name: str, version: int, columns: Sequence[str]) -> float:
    """Share of some documents of a table that full-text search finds by words which few others have.

    Args:
        uri: LanceDB database.
        name: A table with full-text indices.
        version: Its version.
        columns: Columns that have one.

    Returns:
        1 if all are found, also where no document has such words.
    """
    dataset = open_version(uri, name, version)
    keys = [schema.ID, schema.CHUNK]
    rows = dataset.sample(min(PROBE_POOL, dataset.count_rows()), columns=[*keys, *columns]).to_pylist()
    words = [{word for column in columns for word in _words(row[column] or "")} for row in rows]
    frequency = Counter(word for found in words for word in found)
    rare = [sorted(found, key=lambda word: (frequency[word], word))[: PROBE_WORDS.stop - 1] for found in words]
    probes = [pair for pair in zip(rows, rare, strict=True) if len(pair[1]) >= PROBE_WORDS.start][:PROBED]
    found = [_is_found(dataset, columns, row[schema.ID], row[schema.CHUNK], chosen) for row, chosen in probes]
    return sum(found) / len(found) if found else 1.0


def _words(text: str) -> list[str]:
    """What stands between white space, so that every tokenizer cuts it as it cut the text; no numbers."""
    return [word for word in text.split() if LETTERS.search(word) and len(word.encode()) < TOKEN_BYTES]


def _is_found(dataset: lance.LanceDataset, columns: Sequence[str], name: str, chunk: int, words: Sequence[str]) -> bool:
    """Whether the index alone, without a scan of the rows, finds a row by one of its words."""
    query = CombinedFieldsQuery(" ".join(words), list(columns))
    scanner = dataset.scanner(
        columns=[schema.ID, SCORE],
        full_text_query=query,
        filter=key_is(name, chunk),
        prefilter=True,
        fast_search=True,
        limit=1,
    )
    return bool(scanner.to_table().num_rows)


def can_hold_text(type_: pa.DataType) -> bool:
    """Whether a column's type can have a full-text index."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
