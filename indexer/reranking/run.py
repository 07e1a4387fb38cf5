"""The scoring job: pairs to scores, or queries through a published index and a reranker to ranked results."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from indexer.cluster.connection import SMALL_BYTES, Cluster
from indexer.cluster.drive import Work, drive
from indexer.cluster.leases import GivenUp
from indexer.corpus.files import DataFile
from indexer.corpus.formats import open_file
from indexer.corpus.listing import list_files
from indexer.errors import CorpusError, IndexerError, SettingsError
from indexer.inference.compiling import PAIR_TOKENS, QUERY_TOKENS, ExpectedWork
from indexer.inference.model import Model, Reranker, open_reranker
from indexer.progress import Stopwatch, say
from indexer.reranking import pairs
from indexer.reranking.pairs import RowRange
from indexer.reranking.pipelines import ScorePipeline, SearchPipeline, search_options
from indexer.reranking.results import EPOCH, RESULT_SCHEMA, TABLE, PartReceipt, Phase, ResultFolder
from indexer.search import modes
from indexer.search.published import Published, open_published
from indexer.settings import PairsSettings, QueriesSettings, ScoreSettings
from indexer.storage import commits, tables
from indexer.storage.commits import Change
from indexer.storage.records import Epoch, canonical

OWNER = "jobs.score"
"""Owner of the table with a search's results."""

CANDIDATES = {"query_column": "query", "document_id_column": "id", "instruction_column": "instruction"}
"""Columns of the search's candidates."""


def _make_search(
    settings: ScoreSettings, epoch: Epoch | None, embedder: Model | None, expected: ExpectedWork
) -> SearchPipeline:
    """A worker's pipeline of the first phase."""
    published, queries = _published(settings, epoch), _given(settings.queries)
    # Words alone need no model, which may not even be on this machine.
    model = None if queries.mode == "text" else embedder or published.model
    return SearchPipeline(settings.output.uri, queries, published, expected.fitted(model) if model else None)


def _make_score(
    settings: ScoreSettings, columns: PairsSettings, epoch: Epoch | None, reranker: Reranker
) -> ScorePipeline:
    """A worker's pipeline of the second phase."""
    published = None if epoch is None else _published(settings, epoch)
    ranked = settings.queries is not None
    return ScorePipeline(settings.output.uri, columns, published, reranker, ranked=ranked)


@dataclass
class ScoreJob:
    """Inputs of a run, opened and checked.

    Attributes:
        settings: The settings.
        reranker: The reranker.
        published: The index, ``None`` without one.
        files: Files of pairs or queries.
        folder: Where results go.
        watch: Seconds by stage.
        resumed: Shards an earlier run had written.
        left_out: Queries without an id or a text.
        tokens: Tokens read by this run, by phase.
        fallbacks: Slower ways that engines took, with the reasons.
    """

    settings: ScoreSettings
    reranker: Reranker
    published: Published | None
    files: tuple[DataFile, ...]
    folder: ResultFolder
    watch: Stopwatch
    resumed: int = 0
    left_out: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)

    @property
    def epoch(self) -> Epoch | None:
        """Epoch of the index, which this run keeps from being pruned. Workers get the record itself."""
        return self.published.epoch if self.published else None


def run(
    settings: ScoreSettings,
    model: Reranker | None = None,
    embedder: Model | None = None,
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Scores the configured pairs or queries; resumes an earlier run of the same settings.

    Args:
        settings: The settings.
        model: A reranker to use instead of the configured one.
        embedder: A model for queries to use instead of the index's own.
        cluster: A connected cluster, which stays connected; by default the run connects as the settings say.

    Returns:
        The summary, JSON-ready.

    Raises:
        SettingsError: The settings contradict the model, the index or the content of the output folder.
        CorpusError: A file of pairs or queries cannot be used.
        IndexerError: Anything else that ends the run.
    """
    job = _open(settings, model)
    finished = job.folder.summary()
    if finished is not None:
        say("an earlier run has finished: nothing is scored")
        return finished
    with ExitStack() as stack:
        cluster = cluster or stack.enter_context(Cluster(settings.cluster, settings.engine.replicas_per_gpu))
        if settings.queries is not None:
            queries = _query_pieces(job, settings.queries)
            expected = _expected(job, cluster, "search", queries)
            make_searcher = partial(_make_search, settings, job.epoch, embedder, expected)
            searched = _phase(job, cluster, "search", queries, make_searcher)
            job.left_out = sum(receipt.unscored for receipt in searched)
        columns, pieces = _pair_pieces(job, cluster)
        reranker = _expected(job, cluster, "score", pieces).fitted(job.reranker)
        make = partial(_make_score, settings, columns, job.epoch, reranker)
        receipts = _phase(job, cluster, "score", pieces, make)
    with job.watch("publish"):
        if settings.queries is not None:
            _publish(job, receipts)
    summary = _summary(job, receipts)
    job.folder.put_summary(summary)
    return summary


def _open(settings: ScoreSettings, model: Reranker | None) -> ScoreJob:
    """Opens and checks everything before an engine starts, and claims the output folder."""
    watch = Stopwatch()
    with watch("open"):
        reranker = model or open_reranker(settings.model, settings.engine)
        published = None
        if settings.index is not None:
            published = _published(settings, None)
            published.text_columns  # noqa: B018  # refuse here and not in every worker
        given = settings.pairs or _given(settings.queries)
        if given.instruction_column is not None and not reranker.tokenizer.takes_instructions:
            raise SettingsError(f"instruction_column: {settings.model.name} takes no instructions; leave it out")
        files = list_files(given.uri, "pairs.uri" if settings.pairs else "queries.uri")
        for file in files:
            pairs.require(given.uri, file, _columns(settings), RESULT_COLUMNS if settings.pairs else ())
        if settings.queries is not None:
            snapshot = _given(published).snapshot
            modes.check(snapshot, search_options(settings.queries, snapshot.epoch.description.text_columns))
            _check_ids(settings.queries, files)
        folder = ResultFolder(settings.output.uri)
        folder.claim(_identity(settings, reranker, published, files))
        if settings.queries is not None:
            tables.create_missing(settings.output.uri, {TABLE: RESULT_SCHEMA}, OWNER)
    return ScoreJob(settings, reranker, published, files, folder, watch)


TOKENS: dict[Phase, int] = {"search": QUERY_TOKENS, "score": PAIR_TOKENS}
"""Tokens of what a phase computes, to estimate its work."""

RESULT_COLUMNS = ("score", "truncated")
"""Columns that the results add to the pairs."""


def _published(settings: ScoreSettings, epoch: Epoch | None) -> Published:
    """The index that the settings name, at an epoch."""
    index = _given(settings.index)
    return open_published(index.uri, index.name, epoch=epoch, engine=settings.engine.arguments)


def _columns(settings: ScoreSettings) -> list[str]:
    """Columns of the pairs or queries that the settings name."""
    given = settings.pairs or _given(settings.queries)
    return [value for key, value in given.model_dump().items() if key.endswith("_column") and value is not None]


def _check_ids(settings: QueriesSettings, files: Sequence[DataFile]) -> None:
    """Refuses repeated query ids, which identify the results, and files without any."""
    seen: set[str] = set()
    for at, file in enumerate(files):
        whole = RowRange(settings.uri, file, at, 0, _rows(settings.uri, file))
        for name in pairs.strings(pairs.read(whole, [settings.id_column]), settings.id_column):
            if name in seen:
                raise CorpusError(f"{file.path}: query id {name!r} occurs twice")
            if name is not None:
                seen.add(name)
    if not seen:
        raise CorpusError(f"queries.uri: no row of {len(files)} files has a query's id")


def _identity(
    settings: ScoreSettings, reranker: Reranker, published: Published | None, files: Sequence[DataFile]
) -> dict[str, Any]:
    """Everything that changes a result."""
    given = settings.pairs or _given(settings.queries)
    index = None
    if published is not None:
        given_index = _given(settings.index)
        index = [given_index.uri, given_index.name, published.epoch.number, published.epoch.description.fingerprint]
    return {
        "files": [file.identity for file in files],
        "columns": given.model_dump(exclude={"uri"} | _default_mode(given)),
        "shard_pairs": settings.run.shard_pairs,
        "reranker": reranker.fingerprint,
        "index": index,
        # An index that was deleted and made anew at the same place counts its epochs from 1 again.
        EPOCH: None if published is None else published.epoch.intent,
    }


def _default_mode(given: PairsSettings | QueriesSettings) -> set[str]:
    """The key of the way to search, where it is the only one that earlier versions had."""
    return {"mode"} if getattr(given, "mode", None) == "vector" else set()


def _query_pieces(job: ScoreJob, queries: QueriesSettings) -> list[RowRange]:
    """Ranges of queries, so small that their candidates fill one shard of pairs."""
    most = -(-job.settings.run.shard_pairs // queries.candidates)
    return [piece for at, file in enumerate(job.files) for piece in pairs.cut(queries.uri, file, at, most)]


def _pair_pieces(job: ScoreJob, cluster: Cluster) -> tuple[PairsSettings, list[RowRange]]:
    """Pieces to score: of the given pairs, or of the search's parts; a query is never split between two."""
    most = job.settings.run.shard_pairs
    if job.settings.pairs is not None:
        columns = job.settings.pairs
        together = [columns.query_column]
        items = ((columns.uri, file, at, most, together) for at, file in enumerate(job.files))
        small = sum(file.size for file in job.files) < SMALL_BYTES
        found = [piece for pieces in cluster.map(pairs.cut, items, in_driver=small) for piece in pieces]
        return columns, sorted(found, key=lambda piece: piece.shard_id)
    columns = PairsSettings(uri=job.folder.candidates_uri(), **CANDIDATES)
    files = list_files(columns.uri, "output.uri")
    rows = ((file, _rows(columns.uri, file)) for file in files)
    return columns, [RowRange(columns.uri, file, at, 0, count) for at, (file, count) in enumerate(rows)]


def _rows(uri: str, file: DataFile) -> int:
    """Number of rows of a file."""
    with open_file(uri, file) as opened:
        return opened.count_rows()


def _expected(job: ScoreJob, cluster: Cluster, phase: Phase, pieces: Sequence[RowRange]) -> ExpectedWork:
    """What is not written yet of a phase."""
    known = job.folder.receipts(phase).ids()
    rows = [piece.size for piece in pieces if piece.shard_id not in known]
    return ExpectedWork(sum(rows) * TOKENS[phase], min(cluster.workers, max(len(rows), 1)), cluster.gpus)


def _phase(
    job: ScoreJob, cluster: Cluster, phase: Phase, pieces: Sequence[RowRange], make: Callable[[], Any]
) -> list[PartReceipt]:
    """Takes every piece to a receipt and reuses the receipts of an earlier run."""
    written = job.folder.receipts(phase)
    known = written.ids()
    receipts = [written.get(piece.shard_id) for piece in pieces if piece.shard_id in known]
    rest = [piece for piece in pieces if piece.shard_id not in known]
    if receipts:
        say(f"{phase}: {len(receipts)} of {len(pieces)} shards are written already")
        job.resumed += len(receipts)
    if not rest:
        return receipts
    rows = sum(piece.size for piece in rest)
    unit = "queries" if phase == "search" else "pairs"
    say(f"{phase}: starting {min(cluster.workers, len(rest))} workers for {rows:,} {unit} in {len(rest)} shards")
    failed: list[GivenUp[RowRange]] = []
    settings = job.settings.run

    def done(receipt: PartReceipt) -> None:
        receipts.append(receipt)
        job.tokens[phase] = job.tokens.get(phase, 0) + receipt.tokens

    with ExitStack() as stack:
        with job.watch("start"):
            pool = stack.enter_context(cluster.pool(make, len(rest)))
        with job.watch(phase):
            name = job.settings.index.name if job.settings.index is not None else None
            work = Work(rest, rows, unit, settings.retries, settings.max_restarts, name)
            drive(pool, work, settings.progress, done, failed.append)
        job.fallbacks += pool.starts.fallbacks
    if failed:
        first = failed[0]
        raise IndexerError(
            f"{phase}: {len(failed)} of {len(pieces)} shards failed, the first one {first.piece.shard_id} of "
            f"{first.piece.file.path}: {first.reason}; the others are written: run again to retry these"
        )
    return receipts


def _publish(job: ScoreJob, receipts: Sequence[PartReceipt]) -> None:
    """Publishes a search's results as one LanceDB table, committed once, and as a TREC run."""
    uri = job.settings.output.uri
    ordered = sorted(receipts, key=lambda receipt: receipt.shard_id)
    fragments = [fragment for receipt in ordered for fragment in receipt.fragments]
    metadata = {"reranker": canonical(job.reranker.fingerprint), "index_epoch": str(_given(job.epoch).number)}
    digest = hashlib.blake2b(canonical([fragments, metadata]).encode(), digest_size=16).hexdigest()
    commits.commit(uri, TABLE, Change(1, digest, commits.NOTHING, fragments, None, metadata, OWNER))
    job.folder.put_trec(job.settings.model.name.rstrip("/").rsplit("/", 1)[-1])


def _summary(job: ScoreJob, receipts: Sequence[PartReceipt]) -> dict[str, Any]:
    """The summary of the run, JSON-ready."""
    rows = sum(receipt.rows for receipt in receipts)
    unscored = sum(receipt.unscored for receipt in receipts)
    spent = job.watch.seconds
    seconds = spent.get("score", 0.0)
    return {
        "pairs": rows,
        "scored": rows - unscored,
        "unscored": unscored,
        "queries_left_out": job.left_out,
        "truncated": sum(receipt.truncated for receipt in receipts),
        "tokens": sum(receipt.tokens for receipt in receipts),
        "cached_tokens": sum(receipt.cached_tokens for receipt in receipts),
        "seconds": round(sum(spent.values()), 3),
        "stages": {stage: round(value, 3) for stage, value in spent.items()},
        "tokens_per_second": round(job.tokens.get("score", 0) / seconds, 1) if seconds else 0.0,
        "resumed_shards": job.resumed,
        "fallbacks": list(dict.fromkeys(job.fallbacks)),
        "output": job.settings.output.uri,
    }


GivenT = TypeVar("GivenT")


def _given(value: GivenT | None) -> GivenT:
    """A section that the settings' own check guarantees to exist."""
    if value is None:
        raise TypeError("internal error: the settings lack a section that their form needs")
    return value
