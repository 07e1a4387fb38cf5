"""Measures a model on judged queries by exact search at several widths."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.adapting_settings import GuardSettings
from indexer.evaluation import judgements, known_items, measures
from indexer.evaluation.judged_files import read_columns
from indexer.evaluation.judgements import Questions
from indexer.evaluation.remote_engine import RemoteEngine
from indexer.evaluation_settings import JudgedQueriesSettings, JudgementsSettings
from indexer.inference import matryoshka
from indexer.inference.model import Model
from indexer.search.hits import joined_text
from indexer.search.published import Published
from indexer.storage import tables

QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Collection:
    """Documents and the queries that are asked of them.

    Attributes:
        texts: Texts of the documents by id.
        questions: Queries and what answers them.
    """

    texts: Mapping[str, str]
    questions: Questions


@dataclass(frozen=True)
class Vectors:
    """A model's vectors of a collection.

    Attributes:
        queries: float32, shape (queries, dimension), in the order of the questions.
        documents: float32, shape (chunks, dimension).
        owners: Id of each chunk's document.
    """

    queries: np.ndarray
    documents: np.ndarray
    owners: Sequence[str]


def of_index(published: Published, questions: Questions, most: int) -> Collection:
    """The documents of an index that answer a query, and others drawn from it.

    Args:
        published: The index.
        questions: Queries and judgements; texts in ``altered`` stand for the documents' own.
        most: Documents drawn.
    """
    answers = {name for grades in questions.judgements.values() for name in grades}
    names = sorted(answers | questions.themselves | set(known_items.drawn(published.snapshot, most)))
    texts = {name: text for name, text in zip(names, published.texts(names), strict=True) if text}
    return Collection({name: questions.altered.get(name, text) for name, text in texts.items()}, questions)


def of_guard(settings: GuardSettings) -> Collection:
    """The guard collection.

    Raises:
        CorpusError: It cannot be read.
    """
    columns = {settings.id_column: schema.ID, **{name: f"text {name}" for name in settings.text_columns}}
    rows = read_columns(settings.corpus, "guard.corpus", columns).to_dicts()
    names = [f"text {name}" for name in settings.text_columns]
    texts = {row[schema.ID]: joined_text(row, names, skip_empty=True) for row in rows if row[schema.ID]}
    found = judgements.read(JudgedQueriesSettings(uri=settings.queries), JudgementsSettings(uri=settings.judgements))
    return Collection(
        {name: text for name, text in texts.items() if text.strip()}, judgements.checked(found, texts.keys())
    )


def vectors(model: Model, engine: RemoteEngine, collection: Collection) -> Vectors:
    """Embeds a collection as the index is embedded, chunks and prompts included."""
    names = list(collection.texts)
    tokens = model.tokenizer.documents(list(collection.texts.values()))
    queries = engine.embed(model.tokenizer.queries(list(collection.questions.texts.values())))
    return Vectors(queries, engine.embed(tokens.ids), [names[row] for row in tokens.row])


def published_vectors(published: Published, engine: RemoteEngine, collection: Collection) -> Vectors:
    """The base's vectors of an index's collection: those published, and new ones of documents with another text.

    Only components up to the widest published width are meant.
    """
    altered = [name for name in collection.texts if name in collection.questions.altered]
    part = {name: collection.texts[name] for name in altered}
    made = vectors(published.model, engine, Collection(part, collection.questions))
    wanted = pa.array([name for name in collection.texts if name not in part], pa.string())
    width = published.state().width
    documents, owners = [matryoshka.cut(made.documents, width)] if part else [], list(made.owners)
    for batch in published.batches([schema.ID, schema.VECTOR]):
        rows = batch.filter(pc.is_in(batch[schema.ID], value_set=wanted))
        documents.append(tables.to_matrix(rows[schema.VECTOR]).astype(np.float32))
        owners += rows[schema.ID].to_pylist()
    return Vectors(made.queries, np.concatenate(documents), owners)


def measured(collection: Collection, found: Vectors, width: int) -> pl.DataFrame:
    """The measures of every query at a width, as :func:`indexer.evaluation.measures.per_query` gives them."""
    return measures.per_query(collection.questions.judgements, ranked(collection.questions, found, width))


def ranked(questions: Questions, found: Vectors, width: int) -> dict[str, dict[str, float]]:
    """The nearest documents of each query with their cosines, nearest first."""
    return dict(_run(questions, found, width))


def _run(questions: Questions, found: Vectors, width: int) -> Iterator[tuple[str, dict[str, float]]]:
    """The nearest documents of each query; of a document's chunks the nearest one counts."""
    documents, queries = matryoshka.cut(found.documents, width), matryoshka.cut(found.queries, width)
    names = list(questions.texts)
    for at in range(0, len(names), QUERIES_AT_ONCE):
        cosines = queries[at : at + QUERIES_AT_ONCE] @ documents.T
        for name, row in zip(names[at : at + QUERIES_AT_ONCE], cosines, strict=True):
            hidden = {name} if name in questions.themselves else set()
            yield name, measures.nearest(row, found.owners, hidden)
