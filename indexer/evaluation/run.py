"""The evaluation of an index: every configuration on the same queries, what it costs, and which one to use."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl

from indexer.cluster.connection import Cluster
from indexer.corpus.listing import list_files
from indexer.errors import IndexerError, SettingsError
from indexer.evaluation import configurations, judgements, known_items, measures, report, synthetic, workbench
from indexer.evaluation.block import block
from indexer.evaluation.configurations import Configuration
from indexer.evaluation.judgements import Questions
from indexer.evaluation.measures import MEASURES, NDCG, Run
from indexer.evaluation.recommendation import Evaluated, recommend
from indexer.evaluation.remote_engine import RemoteEngine
from indexer.evaluation.rerank import Rerank
from indexer.evaluation.trial import Latency, Trial
from indexer.evaluation.workbench import RewrittenDocuments, Workbench
from indexer.inference.compiling import BYTES_PER_TOKEN, PAIR_TOKENS, ExpectedWork
from indexer.inference.model import Reranker, open_reranker
from indexer.inference.sequences import TokenSequences
from indexer.progress import say
from indexer.search.hits import Hit
from indexer.search.published import Published, open_published
from indexer.search.query_vectors import refuse_token_vectors
from indexer.settings import EvaluateSettings
from indexer.storage import vector_index
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.records import canonical


@dataclass
class ConfigurationResult:
    """A configuration and all that was measured of it.

    Attributes:
        evaluated: What the recommendation looks at.
        queries: Measures of every query, as :func:`indexer.measures.per_query` gives them.
        table_bytes: Bytes of its tables' data.
        index_bytes: Bytes of its indices.
        latency: Of single searches, and of reranking their candidates.
        recall: Share of exact search's 10 best documents it finds; ``None`` for exact search itself.
        rerank_seconds: Seconds per query of the rerankers together, in batches.
    """

    evaluated: Evaluated
    queries: pl.DataFrame
    table_bytes: int
    index_bytes: int
    latency: Latency
    recall: float | None
    rerank_seconds: float | None


@dataclass
class Evaluation:
    """An evaluation under way.

    Attributes:
        settings: The settings.
        published: The index.
        questions: Queries and what answers them.
        vectors: Their vectors, float32, shape (queries, dimension).
        bench: The tables.
        reranker: The reranker, where there is one.
        cluster: Where it runs.
        stack: What ends with the evaluation.
        runs: Results so far, by configuration.
        reference: Measures of every query under the first configuration, with which the others are compared.
        absent: Why a configuration could not be had, by its name.
    """

    settings: EvaluateSettings
    published: Published
    questions: Questions
    vectors: np.ndarray
    bench: Workbench
    reranker: Reranker | None
    cluster: Cluster
    stack: ExitStack
    runs: dict[Configuration, Run] = field(default_factory=dict)
    reference: pl.DataFrame | None = None
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def queries(self) -> list[str]:
        """The queries in their order."""
        return list(self.questions.texts.values())

    @property
    def given_reranker(self) -> Reranker:
        """The reranker of the configurations that need one."""
        if self.reranker is None:
            raise TypeError("internal error: a configuration is to be reranked without a reranker")
        return self.reranker

    @cached_property
    def rerank(self) -> Rerank:
        """The reranker's engines, started for the first configuration that needs them."""
        pairs = len(self.questions.texts) * self.settings.compare.candidates  # no pair is scored twice
        engine = _expected(self.cluster, pairs * PAIR_TOKENS).fitted(self.given_reranker).engine
        scorer = self.stack.enter_context(RemoteEngine(self.cluster, engine, "score", self.settings.run.progress))
        return Rerank(self.given_reranker, scorer, self.settings.compare.candidates)


def _expected(cluster: Cluster, tokens: float) -> ExpectedWork:
    """Work that all engines share."""
    return ExpectedWork(tokens, cluster.workers, cluster.gpus)


def _inputs(settings: EvaluateSettings, published: Published, reranker: Reranker | None) -> list[str]:
    """Identities of the epoch, of the files with queries and judgements, and of the reranker."""
    given = [("queries.uri", settings.queries), ("judgements.uri", settings.judgements)]
    found = [file.identity for name, source in given if source for file in list_files(source.uri, name)]
    # An index that was deleted and made anew at the same place counts its epochs from 1 again.
    return [published.epoch.intent, *found, *([canonical(reranker.fingerprint)] if reranker else [])]


def run(settings: EvaluateSettings, cluster: Cluster | None = None) -> dict[str, Any]:
    """Evaluates an index; the same settings on the same epoch give what an earlier run found.

    Args:
        settings: The settings.
        cluster: Where engines run; the settings' cluster by default.

    Returns:
        The summary, JSON-ready; without any text of queries or documents.

    Raises:
        SettingsError: The settings contradict the index.
        CorpusError: Queries or judgements cannot be used.
        IndexerError: Anything else that ends the run.
    """
    published = open_published(settings.index.uri, settings.index.name, engine=settings.engine.arguments)
    refuse_token_vectors(published.epoch, "jobs.evaluate")
    reranker = open_reranker(settings.reranker, settings.engine) if settings.reranker else None
    # One folder for each epoch and way of evaluating it.
    name = f"epoch-{published.epoch.number:06d}-{report.identity(settings, _inputs(settings, published, reranker))}"
    folder = PutOnceFolder(settings.output.uri, name, "output.uri")
    known = report.finished(folder)
    if known is not None:
        say("an earlier run evaluated this epoch with the same settings: its report is given")
        return known
    layout = published.epoch.description.layout
    listed = configurations.listed(settings.compare, layout.widths, layout.precision, reranked=reranker is not None)
    with ExitStack() as stack:
        cluster = cluster or stack.enter_context(Cluster(settings.cluster, settings.engine.replicas_per_gpu))
        questions = make_questions(settings, published, reranker, cluster)
        say(
            f"{len(questions.texts):,} queries"
            + "".join(f"; {count:,} {name}" for name, count in questions.notes.items())
        )
        vectors, altered = _embedded(settings, published, questions, cluster)
        bench = Workbench(
            published, f"{settings.output.uri.rstrip('/')}/{name}/tables", altered, settings.compare.recall
        )
        stack.callback(bench.drop)
        evaluation = Evaluation(settings, published, questions, vectors, bench, reranker, cluster, stack)
        measured = [found for one in listed if (found := _measured(evaluation, one)) is not None]
    summary = _summary(evaluation, measured)
    report.write(folder, summary, _details(evaluation, measured))
    return report.finished(folder) or summary


def make_questions(
    settings: EvaluateSettings, published: Published, reranker: Reranker | None, cluster: Cluster
) -> Questions:
    """Queries and what answers them, from the source that the settings name."""
    if settings.queries is not None and settings.judgements is not None:
        found = judgements.read(settings.queries, settings.judgements)
        return judgements.checked_in(found, published)
    if settings.known_items is not None:
        return known_items.make(published.snapshot, settings.known_items)
    if settings.synthetic is None or reranker is None:
        raise TypeError("internal error: the settings have no source of queries")
    writer = synthetic.open_writer(settings.synthetic, settings.engine)
    style = settings.run.progress

    def write(prompts: TokenSequences) -> list[list[int]]:
        with RemoteEngine(cluster, writer.engine, "write", style) as serving:
            return serving.write(prompts)

    return synthetic.make(published, writer, write, partial(_scores, cluster, reranker, style))


def _scores(
    cluster: Cluster, reranker: Reranker, style: Any, queries: Sequence[str], documents: Sequence[str]
) -> np.ndarray:
    pairs = reranker.tokenizer.pairs(queries, documents)
    engine = _expected(cluster, pairs.ids.tokens).fitted(reranker).engine
    with RemoteEngine(cluster, engine, "score", style) as serving:
        return serving.score(pairs)


def _embedded(
    settings: EvaluateSettings, published: Published, questions: Questions, cluster: Cluster
) -> tuple[np.ndarray, RewrittenDocuments | None]:
    """Vectors of the queries, and the documents that are asked for by their own words, as altered."""
    queries = published.model.tokenizer.queries(list(questions.texts.values()))
    tokens = queries.tokens + sum(len(text.encode()) for text in questions.altered.values()) / BYTES_PER_TOKEN
    model = _expected(cluster, tokens).fitted(published.model)
    with RemoteEngine(cluster, published.make_engine(model), "embed", settings.run.progress) as serving:
        vectors = serving.embed(queries)
        altered = workbench.rewrite(published, questions.altered, serving.embed) if questions.altered else None
    return vectors, altered


def _measured(evaluation: Evaluation, configuration: Configuration) -> ConfigurationResult | None:
    """One configuration; ``None`` where it cannot be had, which is remembered. The first one must be had."""
    try:
        trial = evaluation.bench.trial(configuration)
    except (IndexerError, SettingsError) as error:
        if evaluation.reference is None:
            raise
        evaluation.absent[configuration.name] = str(error)
        say(f"{configuration.name}: absent: {error}")
        return None
    oversample = evaluation.settings.compare.oversample
    depth = _depth(evaluation, configuration)
    found_hits = trial.ranked(evaluation.vectors, evaluation.queries, depth, oversample)
    hits = _without_themselves(evaluation.questions, found_hits)
    timed = evaluation.settings.compare.timed_queries
    latency, rerank_seconds = trial.timed(evaluation.vectors[:timed], evaluation.queries[:timed], oversample), None
    if configuration.reranked:
        hits = evaluation.rerank.order(trial, evaluation.queries, hits)
        rerank_seconds = evaluation.rerank.seconds
        latency = evaluation.rerank.added_to(latency)
    evaluation.runs[configuration] = _documents(evaluation.questions, hits)
    found = _with_quality(evaluation, trial, latency, rerank_seconds)
    say(f"{configuration.name}: {NDCG} {found.evaluated.quality[NDCG]:.4f}, {latency.p50 * 1000:.1f} ms a query")
    return found


def _depth(evaluation: Evaluation, configuration: Configuration) -> int:
    """Hits to ask for: a query that is a document itself is taken out of them."""
    wanted = evaluation.settings.compare.candidates if configuration.reranked else measures.DEPTH
    return wanted + bool(evaluation.questions.themselves)


def _without_themselves(questions: Questions, found: Sequence[Sequence[Hit]]) -> list[list[Hit]]:
    """Hits of each query without the document that the query is."""
    return [
        [hit for hit in hits if hit.id != query or query not in questions.themselves]
        for query, hits in zip(questions.texts, found, strict=True)
    ]


def _documents(questions: Questions, found: Sequence[Sequence[Hit]]) -> Run:
    """Score of each document; a search gives every document once."""
    return {query: {hit.id: hit.score for hit in hits} for query, hits in zip(questions.texts, found, strict=True)}


def _with_quality(
    evaluation: Evaluation, trial: Trial, latency: Latency, rerank_seconds: float | None
) -> ConfigurationResult:
    """What one configuration reached, beside the first one measured."""
    configuration = trial.configuration
    queries = measures.per_query(evaluation.questions.judgements, evaluation.runs[configuration])
    reference = queries if evaluation.reference is None else evaluation.reference
    evaluation.reference = reference
    exact = evaluation.runs.get(Configuration(configuration.width, configuration.precision))
    approximate = configuration.index != vector_index.NO_INDEX and not configuration.rescored
    return ConfigurationResult(
        Evaluated(
            configuration,
            {name: float(np.mean(queries[name].to_numpy())) for name in MEASURES},
            queries[NDCG].to_numpy(),
            measures.difference(queries[NDCG].to_numpy(), reference[NDCG].to_numpy()),
            trial.table_bytes + trial.index_bytes,
            latency.p95,
        ),
        queries,
        trial.table_bytes,
        trial.index_bytes,
        latency,
        measures.overlap(evaluation.runs[configuration], exact) if approximate and exact else None,
        rerank_seconds,
    )


def _summary(evaluation: Evaluation, measured: Sequence[ConfigurationResult]) -> dict[str, Any]:
    """The summary, JSON-ready."""
    compare, epoch = evaluation.settings.compare, evaluation.published.epoch
    evaluated = [one.evaluated for one in measured]
    found = recommend(evaluated, NDCG, compare.max_loss, compare.max_p95_ms / 1000)
    return {
        "epoch": epoch.number,
        "index": evaluation.settings.index.name,
        "model": epoch.description.model.name,
        "published": epoch.published,
        "rows": epoch.tables[0].rows,
        "asked": _asked(evaluation.settings),
        "queries": len(evaluation.questions.texts),
        "judgements": sum(map(len, evaluation.questions.judgements.values())),
        "notes": dict(evaluation.questions.notes),
        "configurations": [_described(one) for one in measured],
        "absent": evaluation.absent,
        "recommendation": {
            "configuration": found.chosen.configuration.name,
            "reason": found.reason,
            "toml": _block(evaluation, found.chosen.configuration),
            "front": found.front,
        },
    }


def _block(evaluation: Evaluation, chosen: Configuration) -> str:
    compare = evaluation.settings.compare
    text = evaluation.bench.text if chosen.mode != "vector" else None
    return block(chosen, compare.oversample, compare.candidates, text, evaluation.settings.reranker)


def _asked(settings: EvaluateSettings) -> str:
    """Where the queries come from, in words."""
    if settings.queries is not None:
        return "given, with judgements"
    return "known items" if settings.known_items is not None else "written by a generator"


def _described(one: ConfigurationResult) -> dict[str, Any]:
    """A configuration's figures, JSON-ready and rounded."""
    quality = {name: round(value, 4) for name, value in one.evaluated.quality.items()}
    return {
        "name": one.evaluated.configuration.name,
        **asdict(one.evaluated.configuration),
        "text": one.evaluated.configuration.mode != "vector",
        **quality,
        "difference": {name: round(value, 4) for name, value in asdict(one.evaluated.difference).items()},
        "beyond_chance": one.evaluated.difference.is_beyond_chance,
        "table_bytes": one.table_bytes,
        "index_bytes": one.index_bytes,
        "p50_ms": round(one.latency.p50 * 1000, 2),
        "p95_ms": round(one.latency.p95 * 1000, 2),
        "queries_per_second": round(one.latency.queries_per_second, 1),
        "recall_at_10": None if one.recall is None else round(one.recall, 4),
        "rerank_seconds": None if one.rerank_seconds is None else round(one.rerank_seconds, 4),
    }


def _details(evaluation: Evaluation, measured: Sequence[ConfigurationResult]) -> report.Details:
    """What the report has beside the summary: every query's measures, and the queries that lost most, with text."""
    reference = measured[0].queries
    frames, worst = [], {}
    for one in measured:
        name = one.evaluated.configuration.name
        frames.append(one.queries.select(pl.lit(name).alias("configuration"), pl.all()))
        worst[name] = report.lost(reference, one.queries, evaluation.questions.texts)
    return report.Details(pl.concat(frames), worst)
