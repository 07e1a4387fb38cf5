"""Sections of an evaluation: where its queries come from, and what is compared."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from indexer.job_settings import MIN_WIDTH, CheckpointSettings, IndexType, Section
from indexer.uris import Uri


class JudgedQueriesSettings(Section):
    """Queries to evaluate with, in the layout of BEIR and MTEB unless the columns say otherwise."""

    uri: Uri = Field(description="Parquet file, directory or glob, or a .jsonl or .tsv file")
    id_column: str = Field("_id", description="column with the query's id")
    text_column: str = Field("text", description="column with the query")

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        _refuse_one_column_twice(self.id_column, self.text_column)
        return self


class JudgementsSettings(Section):
    """Which documents answer which queries, in the layout of BEIR and MTEB unless the columns say otherwise."""

    uri: Uri = Field(description="Parquet file, directory or glob, or a .jsonl or .tsv file")
    query_column: str = Field("query-id", description="column with the query's id")
    document_column: str = Field("corpus-id", description="column with the document's id")
    score_column: str = Field("score", description="column with the grade, a whole number; 0: does not answer")

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        _refuse_one_column_twice(self.query_column, self.document_column, self.score_column)
        return self


class DrawnSettings(Section):
    """How many documents are drawn to ask for."""

    count: int = Field(300, ge=1, description="documents drawn to ask for; with fewer, chance hides differences")


class KnownItemsSettings(DrawnSettings):
    """Queries made of the documents themselves: each must find the document it was taken from, which then lacks it."""

    query: str = Field(
        "first_sentence", description="payload column with a query for its document, e.g. a title, or first_sentence"
    )


class SyntheticSettings(CheckpointSettings, DrawnSettings):
    """Queries written by a generator for documents, kept where the reranker finds that the document answers."""

    max_tokens: int = Field(4096, ge=64, description="most tokens of a prompt with its query; the document is cut")
    prompt: str = Field(
        "Write one question, in the language of the text below, that a person could ask a search engine and that this "
        "text answers. Do not mention the text. Give the question only.\n\n{document}",
        description="what the generator is told; {document} is the document",
    )
    query_tokens: int = Field(64, ge=8, description="most tokens of a query")
    least_score: float = Field(0.5, ge=0, le=1, description="least score of the reranker that keeps a query")

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str) -> str:
        if prompt.count("{document}") != 1:
            raise ValueError("needs {document} once")
        return prompt


class CompareSettings(Section):
    """What is evaluated side by side, and how much quality may be lost for less cost."""

    widths: list[Annotated[int, Field(ge=MIN_WIDTH)]] | None = Field(
        None, description="widths, up to the widest published one; default: those published"
    )
    precisions: list[Literal["float32", "float16"]] = Field(
        ["float32", "float16"], description="how vector components are stored; float32 only from an index that has it"
    )
    vector_indices: list[IndexType] = Field(["IVF_SQ", "IVF_RQ"], description="index types beside exact search")
    oversample: int = Field(
        4, ge=2, description="two stages: search this many times the results, then rescore them at the widest width"
    )
    text_search: bool = Field(default=True, description="also vectors and full-text search together")
    candidates: int = Field(100, ge=1, description="results per query that the reranker orders; read with [reranker]")
    recall: float = Field(0.95, ge=0, le=1, description="recall at 10 that decides how many partitions a query reads")
    timed_queries: int = Field(100, ge=1, description="queries timed one by one")
    max_loss: float = Field(
        0.01,
        ge=0,
        le=1,
        description="largest loss, as a share of the widest width's nDCG@10, that a cheaper configuration may have",
    )
    max_p95_ms: float = Field(100.0, gt=0, description="milliseconds that 95 % of single searches may take")


def _refuse_one_column_twice(*names: str) -> None:
    """A column means one thing."""
    if len(set(names)) < len(names):
        raise ValueError(f"each column is another one: {', '.join(names)}")
