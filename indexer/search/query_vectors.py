"""Vectors of queries: one of each query, or, of a late-interaction model, one of each of its tokens."""

import numpy as np

from indexer.errors import SettingsError
from indexer.inference import matryoshka
from indexer.inference.sequences import TokenSequences
from indexer.inference.text_vectors import TextVectors
from indexer.storage.records import Epoch
from indexer.storage.vector_columns import QueryVectors


def of_engine(found: np.ndarray, sequences: TokenSequences) -> QueryVectors:
    """What an engine gave for queries: as it is if it is a vector of each, otherwise an array of each."""
    if len(found) == len(sequences):
        return found
    vectors = TextVectors.of(found, sequences)
    return [vectors[row] for row in range(len(vectors))]


def cut(queries: QueryVectors, width: int) -> QueryVectors:
    """The vectors at a width."""
    if isinstance(queries, np.ndarray):
        return matryoshka.cut(queries, width)
    return [matryoshka.cut(query, width) for query in queries]


def refuse_token_vectors(epoch: Epoch, job: str) -> None:
    """Refuses an index of token vectors where a job needs one vector of each row.

    Args:
        epoch: The epoch.
        job: Name of the job.

    Raises:
        SettingsError: Its rows have a vector of every token.
    """
    if epoch.description.layout.per_token:
        raise SettingsError(
            f"{job} cannot use this index: its model {epoch.description.model.name} gives a vector of every token "
            "(late interaction), and the job compares one vector of each row; jobs.search and jobs.score can"
        )
