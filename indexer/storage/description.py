"""Records of the run that made an intent and its epoch. Attribute names are the JSON keys on disk."""

from typing import Any, Literal

from pydantic import Field

from indexer.storage.put_once import Record


class LayoutRecord(Record):
    """Properties that two runs must share to write into the same tables.

    Attributes:
        widths: Matryoshka widths, widest first.
        precision: ``float32`` or ``float16``.
        metric: ``cosine``, ``dot`` or ``l2``.
        payload: Type of every payload column by name.
        chunk_hashes: Whether every chunk has a hash of its token ids.
        repeated: Payload columns that the width tables have too, where a table of documents has the payload; ``None``
            where every width table has all of it.
        per_token: Whether a row has a vector of each of its tokens; the only width is theirs.
    """

    widths: list[int]
    precision: str
    metric: str
    payload: dict[str, str]
    chunk_hashes: bool = False
    repeated: list[str] | None = None
    per_token: bool = False


class TextRecord(Record):
    """Full-text search of an epoch: the searched columns, and :class:`indexer.search_settings.TextSettings`."""

    columns: list[str]
    tokenizer: str
    language: str
    stem: bool
    stop_words: bool
    ascii_folding: bool
    min_ngram: int
    max_ngram: int


class ModelRecord(Record):
    """The model as a reader needs it: :class:`indexer.settings.ModelSettings`, and what follows from the checkpoint.

    Attributes:
        revision: The commit that was found, ``None`` for a local directory.
        dimension: Components of a full vector.
        query_template: How a query becomes a prompt.
    """

    name: str
    revision: str | None
    dtype: str
    sha256: dict[str, str]
    max_tokens: int
    overflow: str
    chunk_overlap: int
    query_instruction: str
    dimension: int
    query_template: str
    quantization: str | None = None
    hf_overrides: dict[str, Any] = Field(default_factory=dict)
    pooler_config: dict[str, Any] = Field(default_factory=dict)
    query_prompt: str | None = None
    document_prompt: str | None = None

    @property
    def has_chunks(self) -> bool:
        """Whether a document may have several chunks."""
        return self.overflow == "chunk"


class Counts(Record):
    """Documents of the comparison with the epoch before.

    Attributes:
        documents: Rows of the corpus.
        new: Documents that were not published. ``changed`` (other text), ``unchanged`` and ``deleted`` count likewise.
        duplicates: Further rows with the id and text of a document.
        quarantined: Documents that cannot be indexed, as far as the comparison can tell without the model.
        text_bytes: Bytes of the texts to embed.
        moved: Documents whose vectors were published under another id.
        kept: Documents that stay published although their file cannot be read.
        payload_changed: Documents with the published text and another payload, whose vectors are reused.
        copied: New or changed documents that got the vectors of an equal text.
    """

    documents: int
    new: int
    changed: int
    unchanged: int
    deleted: int
    duplicates: int
    quarantined: int
    text_bytes: int
    moved: int
    kept: int = 0
    payload_changed: int = 0
    copied: int = 0


class RunTotals(Record):
    """Totals of the run; ``tokens`` includes ``resumed_tokens``, which an earlier run read.

    ``gpus`` are those that the workers held: 0 on CPUs, and in epochs of versions that did not record it. ``chunks``
    counts staged rows, ``embedded`` those that engines read: ``None`` in epochs of versions that did not count them.
    ``ready_gpu_hours`` go from the start of each engine to its end; ``None`` in epochs that do not have them.
    ``compile_seconds`` is the longest time that an engine compiled the model, 0 if none did.
    """

    documents: int
    indexed: int
    quarantined: int
    truncated: int
    chunks: int
    tokens: int
    resumed_shards: int
    resumed_tokens: int
    restarts: int
    tokens_per_second: float
    gpus: float = 0.0
    embedded: int | None = None
    ready_gpu_hours: float | None = None
    compile_seconds: float = 0.0


class MaintenanceRecord(Record):
    """Result of maintenance on a table, as in :class:`indexer.storage.vector_index.Maintenance`."""

    compacted: int
    vector_index: Literal["none", "extended", "trained"]
    trained_rows: int | None


class EngineRecord(Record):
    """An engine that computed vectors of the epoch, as far as names and numbers can tell.

    Attributes:
        made_with: vLLM, torch, device, driver and engine arguments by name.
        probe_ids: Token ids of a fixed set of texts.
        probe_vectors: Their vectors: base64 of little-endian float16, in the order of the ids.
        published_cosine: Least cosine between published vectors and this engine's; ``None`` before the first epoch.
        least_cosine: Lower bound on that cosine, which readers' engines must meet too.
    """

    made_with: dict[str, str]
    probe_ids: list[list[int]]
    probe_vectors: str
    published_cosine: float | None
    least_cosine: float


class Description(Record):
    """What an epoch says of its run; ``maintenance`` and ``quarantine_reasons`` are known only once it is published.

    Attributes:
        fingerprint: What changes a vector, by name.
        layout: The tables.
        corpus: Digest of the corpus files.
        text_columns: Columns that hold the text.
        skip_empty: Whether an empty text column adds nothing to a text. Epochs without this key added a newline.
        files: Name of the list of the corpus files' digests.
        copies: Name of the list of the ids that have further rows; ``None`` without any, in epochs of versions that
            did not record it, and where there are too many.
        model: The model.
        to_retry: Files and documents quarantined for reasons that may pass.
        counts: The comparison with the epoch before.
        gates: What each gate measured.
        bounds: What each gate allowed; empty in epochs of versions that did not record it.
        run: What the run did.
        maintenance: What maintenance did, by table.
        quarantine_reasons: Quarantined documents by reason.
        engine: The engine; ``None`` in epochs of versions that recorded none, whose fingerprints lack its arguments.
        rollback_of: The epoch whose tables a rollback published again.
        hold: Whether runs leave the index at this epoch until it is resumed.
        text: Full-text search; ``None`` without.
        filters: Columns with a scalar index.
        checked_in_full: The last epoch for which the whole corpus was compared and every key was read; ``None`` in
            epochs of versions that always did so.
    """

    fingerprint: dict[str, str]
    layout: LayoutRecord
    corpus: str
    text_columns: list[str]
    model: ModelRecord
    to_retry: int
    counts: Counts
    gates: dict[str, float]
    run: RunTotals
    maintenance: dict[str, MaintenanceRecord] = Field(default_factory=dict)
    quarantine_reasons: dict[str, int] = Field(default_factory=dict)
    rollback_of: int | None = None
    skip_empty: bool = False
    files: str | None = None
    copies: str | None = None
    engine: EngineRecord | None = None
    hold: bool = False
    text: TextRecord | None = None
    filters: list[str] = Field(default_factory=list)
    bounds: dict[str, float] = Field(default_factory=dict)
    checked_in_full: int | None = None

    @property
    def documents(self) -> int:
        """Documents that the epoch holds."""
        counts = self.counts
        return counts.unchanged + counts.kept + counts.moved + counts.payload_changed + self.run.indexed
