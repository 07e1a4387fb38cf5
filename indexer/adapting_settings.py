"""Sections of an adaptation: where its pairs come from, how it trains and merges, and what it must show."""

from string import Formatter
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from indexer.evaluation_settings import (
    JudgedQueriesSettings,
    JudgementsSettings,
    KnownItemsSettings,
    SyntheticSettings,
)
from indexer.job_settings import JobSettings, Section
from indexer.settings import (
    ClusterSettings,
    EngineSettings,
    EvaluateRunSettings,
    OutputSettings,
    PublishedSettings,
    RerankerSettings,
)
from indexer.uris import Uri

DOCUMENT = "document"
"""Name of the place for the document in a generator's prompt."""


class TitlesSettings(KnownItemsSettings):
    """Pairs of a title, or a first sentence, and the rest of its document."""

    count: int = Field(1000, ge=1, description="documents drawn to make pairs of")


class WrittenSettings(SyntheticSettings):
    """Queries written by a generator, each under a prompt whose values are drawn for its document."""

    count: int = Field(1000, ge=1, description="documents drawn to write queries for")
    prompt: str = Field(
        "Write one search query in {language} that the text below answers. It is a {query_type} of {length}, "
        "{difficulty} to answer, as {asker} would type it for {task}. Do not mention the text. Give the query only."
        "\n\n{document}",
        description="what the generator is told; {document} is the document, every other name a list of values",
    )
    values: dict[str, list[str]] = Field(
        {
            "task": ["web search", "a search in documentation", "checking a fact"],
            "query_type": ["question", "list of keywords", "statement to be confirmed"],
            "length": ["at most 5 words", "6 to 12 words", "two sentences"],
            "language": ["the language of the text"],
            "difficulty": ["easy", "hard"],
            "asker": ["a beginner", "a specialist", "a student"],
        },
        description="values by name, of which one of each is drawn for every document",
    )

    @model_validator(mode="after")
    def _values_fill_the_prompt(self) -> Self:
        named = {name for _, name, _, _ in Formatter().parse(self.prompt) if name is not None} - {DOCUMENT}
        missing = sorted(named - self.values.keys())
        if missing:
            raise ValueError(f"the prompt has {{{missing[0]}}}, for which values has no list")
        if not all(self.values.values()):
            raise ValueError("every name of values needs at least one value")
        return self


class SplitSettings(Section):
    """How pairs are split by query and document. A document of validation or test is in no other pair or negative."""

    seed: int = Field(0, ge=0, description="draws the split, the order of the pairs and the dropout")
    validation: float = Field(0.15, gt=0, lt=1, description="share of the queries that choose how much is merged")
    test: float = Field(
        0.25, gt=0, lt=1, description="share of the queries that judge; not read where [queries] only judge"
    )


class FilterSettings(Section):
    """Which pairs are trained on."""

    keep_rank: int | None = Field(
        50, ge=1, description="worst rank that a pair's document may have in the published index"
    )
    least_cosine: float = Field(0.0, ge=-1, le=1, description="least cosine of a query to its document")
    least_score: float = Field(
        0.0, ge=0, le=1, description="least score of the reranker for a pair; read with [reranker]"
    )


class NegativesSettings(Section):
    """Hard negatives, found by the index's own search at its widest width."""

    per_pair: int = Field(1, ge=0, description="most hard negatives of a pair; 0: only those of the batch")
    depth: int = Field(50, ge=1, description="results of a query that are looked at")
    above_rank: int = Field(5, ge=0, description="best results that are left out: often they answer the query too")
    margin: float = Field(
        0.05, ge=0, lt=1, description="a negative's cosine is below (1 - margin) times the cosine of the pair"
    )
    most_score: float = Field(
        0.5, ge=0, le=1, description="most score of the reranker for a negative; read with [reranker]"
    )


class TrainSettings(Section):
    """How the model is trained."""

    kind: Literal["embedder", "reranker"] = Field(
        "embedder", description="embedder: the index's model; reranker: the model of [reranker], on the same pairs"
    )
    steps: int = Field(60, ge=1, description="batches trained on")
    batch: int = Field(32, ge=2, description="pairs of a batch; the other pairs' documents are negatives")
    mini_batch: int = Field(32, ge=1, description="texts computed at once; smaller batches need less memory")
    learning_rate: float = Field(2e-5, gt=0, description="largest learning rate of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    temperature: float = Field(0.05, gt=0, description="cosines are divided by it")
    checkpoints: int = Field(3, ge=1, description="checkpoints, evenly spread over the steps, that are merged")
    max_tokens: int | None = Field(
        None, ge=8, description="most tokens of a text in training; default: the model's own"
    )
    loss: Literal["ranking", "guided"] = Field(
        "ranking",
        description="ranking: every other document of the batch is a negative; guided: not those that the base model "
        "scores above the pair",
    )
    frozen_embeddings: bool = Field(default=False, description="leave the table of token vectors as it is")
    lora_rank: int = Field(
        0, ge=0, description="rank of low-rank updates (LoRA) of the linear layers; 0: all weights are trained"
    )
    lora_alpha: float = Field(16.0, gt=0, description="scale of the updates times their rank; read with lora_rank")
    workers: int = Field(
        1, ge=1, description="processes that share every batch, one GPU each, or a part of the cores; by Ray Train"
    )

    @model_validator(mode="after")
    def _is_spread_evenly(self) -> Self:
        if self.batch % self.workers:
            raise ValueError(f"batch = {self.batch} is not a multiple of workers = {self.workers}")
        return self


class MergeSettings(Section):
    """How the trained weights and the base's are merged."""

    shares: list[float] = Field(
        [0.25, 0.5, 0.75, 1.0], min_length=1, description="shares of the trained weights that validation chooses from"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="dtype of the written weights; auto: the base's own"
    )

    @field_validator("shares")
    @classmethod
    def _are_shares(cls, shares: list[float]) -> list[float]:
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("a share is between 0 and 1")
        return shares


class AdaptGateSettings(Section):
    """What must hold before the adapted model is adopted."""

    least_gain: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="the lower end of the gain in nDCG@10 at the widest width must be above this; below 0: a loss that "
        "is accepted",
    )
    max_width_loss: float = Field(0.005, ge=0, le=1, description="most mean loss of nDCG@10 at any width")
    guard_loss: float = Field(0.02, ge=0, le=1, description="most mean loss of nDCG@10 on the corpus of [guard]")
    documents: int = Field(
        50_000, ge=1, description="documents searched for the test queries, besides those that answer one"
    )
    validation_documents: int = Field(
        500, ge=1, description="the same for the validation queries, for which every share embeds them"
    )


class GuardSettings(Section):
    """A judged collection of another kind, on which little may be lost, in the layout of BEIR."""

    corpus: Uri = Field(description="Parquet file, directory or glob with its documents")
    id_column: str = Field("_id", description="column with the document's id")
    text_columns: list[str] = Field(["title", "text"], min_length=1, description="text columns, joined with a newline")
    queries: Uri = Field(description="its queries: Parquet file, directory or glob, or a .jsonl or .tsv file")
    judgements: Uri = Field(description="its judgements: Parquet file, directory or glob, or a .jsonl or .tsv file")


class AdaptRunSettings(EvaluateRunSettings):
    """How the work is shown and what it costs."""

    hour_price: float | None = Field(None, gt=0, description="price of an hour of the machines; read with --plan")


class AdaptSettings(JobSettings):
    """Settings of ``jobs.adapt``."""

    index: PublishedSettings
    queries: JudgedQueriesSettings | None = None
    judgements: JudgementsSettings | None = None
    titles: TitlesSettings | None = None
    synthetic: WrittenSettings | None = None
    split: SplitSettings = SplitSettings()
    filter: FilterSettings = FilterSettings()
    negatives: NegativesSettings = NegativesSettings()
    train: TrainSettings = TrainSettings()
    merge: MergeSettings = MergeSettings()
    gates: AdaptGateSettings = AdaptGateSettings()
    guard: GuardSettings | None = None
    reranker: RerankerSettings | None = None
    output: OutputSettings
    engine: EngineSettings = EngineSettings()
    cluster: ClusterSettings = ClusterSettings()
    run: AdaptRunSettings = AdaptRunSettings()

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if (self.queries is None) != (self.judgements is None):
            raise ValueError("[queries] and [judgements] go together")
        if self.titles is not None and self.synthetic is not None:
            raise ValueError("set one of [titles] and [synthetic]")
        if self.titles is None and self.synthetic is None and self.queries is None:
            raise ValueError("set [titles], [synthetic], or [queries] with [judgements] to train on them")
        if self.synthetic is not None and self.reranker is None:
            raise ValueError("[synthetic] needs a [reranker] to tell good queries from bad ones")
        if self.train.kind == "reranker" and self.reranker is None:
            raise ValueError('train.kind = "reranker" adapts the model of [reranker], which is missing')
        if "://" in self.output.uri:
            raise ValueError("output.uri: a model is written to a directory that every machine sees, not to a URI")
        return self

    @property
    def trains_on_judgements(self) -> bool:
        """Whether the judged queries are split; otherwise all of them judge."""
        return self.titles is None and self.synthetic is None
