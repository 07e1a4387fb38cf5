"""Settings of the jobs, a class per table of the TOML file."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from indexer.evaluation_settings import (
    CompareSettings,
    JudgedQueriesSettings,
    JudgementsSettings,
    KnownItemsSettings,
    SyntheticSettings,
)
from indexer.job_settings import MIN_WIDTH, CheckpointSettings, IndexType, JobSettings, Section
from indexer.schema import RESERVED
from indexer.search_settings import AnswerSettings, Mode, TextSettings
from indexer.uris import HttpUri, Uri

BITS_AT_ONCE = 8
"""LanceDB's RaBitQ index takes widths that fill whole bytes only."""

VectorIndex = Literal["auto", "none", IndexType]


class CorpusSettings(Section):
    """Where the documents are and which columns hold them."""

    uri: Uri = Field(
        description="file, directory (searched recursively), glob or URI of Parquet, Lance, JSON Lines or CSV"
    )
    id_column: str = Field("id", description="column with the document id, string or integer, unique in the corpus")
    text_columns: list[str] = Field(["text"], min_length=1, description="text columns, joined with a newline")
    payload: list[str] = Field(
        [], description="columns stored with the documents; the next run applies a change and embeds nothing"
    )
    strict: bool = Field(
        default=True,
        description="end the run at a file with missing or other columns; else the file goes to the quarantine",
    )
    reader_gb: float = Field(4.0, gt=0, description="most memory, in GiB, for reading one file")
    identity: Literal["stat", "content"] = Field(
        "stat",
        description="what tells that a file changed: path, size and time (on object stores the etag), or path and "
        "bytes, which every run reads",
    )

    @model_validator(mode="after")
    def _payload_names_are_free(self) -> Self:
        taken = sorted(set(self.payload) & RESERVED)
        if taken:
            raise ValueError(f"payload column {taken[0]!r} has the name of a column every table already has")
        return self


class ModelSettings(CheckpointSettings):
    """The embedding model; a change of any of these but query_instruction changes the fingerprint."""

    max_tokens: int = Field(
        8192, ge=8, description="most tokens of one chunk, end token included; by default no more than the checkpoint's"
    )
    overflow: Literal["truncate", "chunk", "quarantine"] = Field(
        "truncate",
        description="how to treat a document longer than max_tokens: cut it, split it into chunks, or quarantine it",
    )
    chunk_overlap: int = Field(64, ge=0, description="tokens neighbouring chunks share; read with overflow = chunk")
    query_instruction: str = Field(
        "Given a web search query, retrieve relevant passages that answer the query",
        description="task put before queries by models that follow instructions; documents get none",
    )
    pooler_config: dict[str, Any] = Field({}, description="vLLM's pooler_config in place of the checkpoint's")
    query_prompt: str | None = Field(None, description="text before every query; default: the checkpoint's own")
    document_prompt: str | None = Field(None, description="text before every document; default: the checkpoint's own")

    @model_validator(mode="after")
    def _overlap_is_below_limit(self) -> Self:
        if self.overflow == "chunk" and self.chunk_overlap >= self.max_tokens // 2:
            raise ValueError("chunk_overlap must be below half of max_tokens")
        return self


def _plain_value(value: object) -> object:
    """Reads the text of an environment variable or flag as JSON where it is JSON, so that numbers stay numbers."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


class EngineSettings(BaseModel):
    """vLLM engine arguments by their own names, e.g. ``max_num_batched_tokens``, beside our own keys."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[Any, BeforeValidator(_plain_value)]]

    replicas_per_gpu: int = Field(1, ge=1, description="engines that share one GPU; above 1 only pays for small models")
    slowest: float = Field(
        10.0, gt=0, description="tokens per second; a step that takes a minute more than this rate asks for is a hang"
    )
    packed: Literal["auto", "on", "off"] = Field(
        "auto",
        description="steps without vLLM's scheduler; auto: where they give what its own loop gives, on: or not at all",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """vLLM engine arguments as given."""
        return dict(self.__pydantic_extra__)


class IndexSettings(Section):
    """The tables to fill."""

    uri: Uri = Field(description="directory or object-store URI of the LanceDB database")
    name: str = Field(
        "docs", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="index name; tables are <name>_d<width>"
    )
    widths: list[int] = Field(
        [256],
        min_length=1,
        description="Matryoshka widths, 32 up to the model's dimension; the next run cuts added ones from the widest",
    )
    precision: Literal["float32", "float16"] = Field(
        "float32", description="how vector components are stored; the next run rounds stored vectors to float16"
    )
    metric: Literal["cosine", "dot", "l2"] = Field(
        "cosine", description="distance of searches; the next run builds vector indices anew for it"
    )
    vector_index: VectorIndex = Field(
        "auto",
        description="LanceDB index type; auto: by rows and width, none for small tables; types ending in PQ: "
        "none below 256 rows; the next epoch builds a changed one",
    )
    text_search: list[str] = Field(
        [], description="payload columns that full-text search looks into; the next run builds or drops the index"
    )
    filters: list[str] = Field(
        [], description="payload columns in every table, with an index for filters; the next run builds or drops it"
    )
    text: TextSettings = Field(TextSettings(), description="read with text_search")
    parallel_rows: int = Field(
        1_000_000, ge=1, description="rows above which a table is compacted and indexed in parts, over the cluster"
    )
    payload: Literal["auto", "once", "copies"] = Field(
        "auto",
        description="once: payload columns stand in a table of documents, and only filters in every table too; "
        "copies: all of them in every table; auto: as the index has it, once in a new one of chunks, else copies",
    )

    @model_validator(mode="after")
    def _widths_are_possible(self) -> Self:
        if len(set(self.widths)) != len(self.widths):
            raise ValueError("widths must differ from each other")
        if min(self.widths) < MIN_WIDTH:
            raise ValueError(f"width {min(self.widths)} is below {MIN_WIDTH}, the smallest Matryoshka width")
        odd = [width for width in self.widths if width % BITS_AT_ONCE]
        if odd and self.vector_index == "IVF_RQ":
            raise ValueError(f"vector_index IVF_RQ needs widths divisible by {BITS_AT_ONCE}, which {odd[0]} is not")
        return self


class ClusterSettings(Section):
    """The Ray cluster and the workers on it."""

    address: str | None = Field(
        None, description="Ray address, or local to start one; default: the cluster we run in, else a local one"
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="engines; auto: one per GPU (times replicas_per_gpu), without GPUs one per core"
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores reserved for, and on CPU machines pinned to, a worker")
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="what an engine runs on; auto: GPUs if the cluster has one when the run begins"
    )
    wait_minutes: float = Field(
        0.0, ge=0, description="ask the autoscaler for machines, and wait so long for the first; 0: use what is there"
    )


ProgressStyle = Literal["auto", "bar", "lines", "none"]


class WorkSettings(Section):
    """How work is retried and shown."""

    retries: int = Field(1, ge=0, description="how often work is retried on another worker when its worker died")
    max_restarts: int = Field(200, ge=0, description="workers that may die before the run ends")
    progress: ProgressStyle = Field("auto", description="auto: a bar on a terminal, else lines")


class RunSettings(WorkSettings):
    """How the work is cut and retried."""

    shard_mb: float = Field(
        8.0, gt=0, description="most text of one shard in MiB: the unit of work, retry and resume; small jobs get less"
    )
    max_quarantine: int | None = Field(
        None, ge=0, description="most rows the quarantine may have, a bad file counting as one; default: any"
    )
    full_check_every: int = Field(
        30, ge=1, description="epochs after which a run compares the whole corpus, not only changed files; 1: every run"
    )
    gpu_hour_price: float | None = Field(
        None, ge=0, description="price of one GPU-hour in your money, for reports, plans and --budget; default: none"
    )
    metrics_file: Path | None = Field(
        None, description="OpenMetrics file that a run writes at its end on the driver's machine; default: none"
    )
    push_gateway: HttpUri | None = Field(None, description="Prometheus push gateway that gets the same; default: none")
    gpu_tflops: float | None = Field(
        None, gt=0, description="dense TFLOP/s of a GPU in the model's dtype; plans use 40 % before the first GPU run"
    )


class GateSettings(Section):
    """What must hold before an epoch is published."""

    max_removed: float = Field(0.2, ge=0, le=1, description="largest share of published documents one run may remove")
    max_quarantined: float = Field(0.2, ge=0, le=1, description="largest share of the corpus that may be quarantined")
    max_changed: float = Field(
        1.0,
        ge=0,
        le=1,
        description="largest share of published documents one run may embed again since they changed; 1: any",
    )
    norm_tolerance: float = Field(1e-3, gt=0, description="largest deviation of a vector's norm from 1")
    sampled_cosine: float = Field(
        0.999, ge=-1, le=1, description="least cosine of a stored vector, one per shard, to the one embedded again"
    )
    published_cosine: float = Field(
        0.999, ge=-1, le=1, description="least cosine of published vectors to those the engine gives before it embeds"
    )
    quantized_cosine: float = Field(
        0.995, ge=-1, le=1, description="the same with model.quantization, whose rounding depends on the batch"
    )
    published_documents: int = Field(64, ge=1, description="unchanged documents that are embedded for it")
    recall: float = Field(0.95, ge=0, le=1, description="least recall at 10 of a vector index against exact search")
    recall_queries: int = Field(100, ge=1, description="stored vectors used as queries to measure recall")


class RerankerSettings(CheckpointSettings):
    """The reranker: Qwen3-Reranker, a conversion of it, or another cross-encoder that vLLM serves."""

    max_tokens: int = Field(8192, ge=8, description="most tokens of one prompt; of longer ones the document is cut")
    instruction: str = Field(
        "Given a web search query, retrieve relevant passages that answer the query",
        description="task put before the query by models that follow instructions",
    )
    pooler_config: dict[str, Any] = Field({}, description="vLLM's pooler_config in place of the checkpoint's")


class PairsSettings(Section):
    """Pairs of a query and a document to score."""

    uri: Uri = Field(
        description="file, directory (searched recursively), glob or URI of Parquet, Lance, JSON Lines or CSV"
    )
    query_column: str = Field("query", description="column with the query")
    document_column: str | None = Field(None, description="column with the document's text")
    document_id_column: str | None = Field(None, description="instead: column with the document's id in [index]")
    instruction_column: str | None = Field(None, description="column with an instruction; null: model.instruction")

    @model_validator(mode="after")
    def _one_kind_of_document(self) -> Self:
        if (self.document_column is None) == (self.document_id_column is None):
            raise ValueError("set either document_column or document_id_column")
        return self


class QueriesSettings(Section):
    """Queries to search an index with."""

    uri: Uri = Field(
        description="file, directory (searched recursively), glob or URI of Parquet, Lance, JSON Lines or CSV"
    )
    id_column: str = Field("query_id", description="column with the query's id, string or integer")
    text_column: str = Field("query", description="column with the query")
    instruction_column: str | None = Field(None, description="column with an instruction; null: the models' own")
    candidates: int = Field(100, ge=1, description="documents per query that are reranked")
    mode: Mode = Field("vector", description="vector, text, or hybrid: both, fused by reciprocal rank")
    width: int | None = Field(None, description="width to search at; default: the widest")
    oversample: int = Field(
        1, ge=1, description="search for this many times the candidates and keep the best at full width"
    )


class PublishedSettings(Section):
    """The published index that is searched; documents' texts are read from its payload."""

    uri: Uri = Field(description="directory or object-store URI of the LanceDB database")
    name: str = Field("docs", description="index name")


class OutputSettings(Section):
    """Where results go."""

    uri: Uri = Field(description="directory or object-store URI of one run's results")


class ScoreRunSettings(WorkSettings):
    """How the work is cut and retried."""

    shard_pairs: int = Field(2048, ge=1, description="pairs of one shard: the unit of work, retry and resume")


class EvaluateRunSettings(Section):
    """How the work is shown."""

    progress: ProgressStyle = Field("auto", description="auto: a bar on a terminal, else lines")


class SearchSettings(JobSettings):
    """Settings of ``jobs.search``, which needs ``[index]`` alone; the file may be that of ``jobs.index``."""

    corpus: CorpusSettings | None = None
    model: ModelSettings | None = None
    engine: EngineSettings = EngineSettings()
    index: IndexSettings
    search: AnswerSettings = AnswerSettings()
    reranker: RerankerSettings | None = None
    cluster: ClusterSettings | None = None
    run: RunSettings | None = None
    gates: GateSettings | None = None


class Settings(JobSettings):
    """Settings of ``jobs.index`` and ``jobs.publish``."""

    corpus: CorpusSettings
    model: ModelSettings
    engine: EngineSettings = EngineSettings()
    index: IndexSettings
    search: AnswerSettings = AnswerSettings()
    reranker: RerankerSettings | None = None
    cluster: ClusterSettings = ClusterSettings()
    run: RunSettings = RunSettings()
    gates: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _searched_columns_are_stored(self) -> Self:
        for key in ("text_search", "filters"):
            missing = [name for name in getattr(self.index, key) if name not in self.corpus.payload]
            if missing:
                raise ValueError(f"index.{key}: column {missing[0]!r} is not stored: add it to corpus.payload")
        return self


class ScoreSettings(JobSettings):
    """Settings of ``jobs.score``."""

    model: RerankerSettings
    engine: EngineSettings = EngineSettings()
    pairs: PairsSettings | None = None
    queries: QueriesSettings | None = None
    index: PublishedSettings | None = None
    output: OutputSettings
    cluster: ClusterSettings = ClusterSettings()
    run: ScoreRunSettings = ScoreRunSettings()

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.pairs is None) == (self.queries is None):
            raise ValueError("set either [pairs] or [queries]")
        needs_index = self.queries is not None or (self.pairs is not None and self.pairs.document_id_column is not None)
        if needs_index != (self.index is not None):
            raise ValueError("[index] is needed with [queries] and pairs.document_id_column, and only with these")
        return self


class EvaluateSettings(JobSettings):
    """Settings of ``jobs.evaluate``."""

    index: PublishedSettings
    queries: JudgedQueriesSettings | None = None
    judgements: JudgementsSettings | None = None
    known_items: KnownItemsSettings | None = None
    synthetic: SyntheticSettings | None = None
    compare: CompareSettings = CompareSettings()
    reranker: RerankerSettings | None = None
    output: OutputSettings
    engine: EngineSettings = EngineSettings()
    cluster: ClusterSettings = ClusterSettings()
    run: EvaluateRunSettings = EvaluateRunSettings()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.queries is None) != (self.judgements is None):
            raise ValueError("[queries] and [judgements] go together")
        if sum(source is not None for source in (self.queries, self.known_items, self.synthetic)) != 1:
            raise ValueError("set one of [queries] with [judgements], [known_items] and [synthetic]")
        if self.synthetic is not None and self.reranker is None:
            raise ValueError("[synthetic] needs a [reranker] to tell good queries from bad ones")
        return self
