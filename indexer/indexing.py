"""The main job: corpus -> changes -> shards on workers -> intent -> epoch; plan and summary."""

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise, starmap
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import changes, publish, schema, tables, widths
from indexer.changes import Difference
from indexer.cluster import Cluster, GivenUp
from indexer.corpus import Corpus, CorpusFile, Part, Shard, cut_shards, open_corpus, read_shard, scan_file
from indexer.epochs import ControlStore, Epoch, Intent, Receipt, canonical
from indexer.errors import SettingsError
from indexer.fates import Fate
from indexer.model import Model, open_model
from indexer.pipeline import Pipeline, Stopwatch, Target
from indexer.progress import Progress
from indexer.schema import Layout
from indexer.settings import Settings

MIB = 1 << 20
SMALL_BYTES = 64 * MIB
"""Files of which less is to be read are read here: a process to do it elsewhere takes longer to start."""

SMALL_ROWS = 200_000
"""Likewise documents to compare."""

SAMPLED_DOCUMENTS = 500
"""Documents tokenised to estimate a plan's tokens."""


@dataclass(frozen=True)
class Job:
    """Everything a run works with, opened and checked.

    Attributes:
        settings: The settings.
        corpus: The listed corpus.
        model: The model.
        layout: The tables.
        store: Control files.
        published: The epoch the run starts from.
    """

    settings: Settings
    corpus: Corpus
    model: Model
    layout: Layout
    store: ControlStore
    published: Epoch | None

    @property
    def epoch(self) -> int:
        """Number of the epoch the run builds."""
        return self.published.number + 1 if self.published else 1

    @property
    def is_published(self) -> bool:
        """Whether the published epoch was made of these very files, with nothing left to try again."""
        if self.published is None or self.published.description["corpus"] != self.corpus.digest:
            return False
        return not self.published.description["to_retry"]

    def digest_name(self, file: CorpusFile) -> str:
        """Name of a file's digest."""
        return f"{self.corpus.columns_digest}-{file.identity}"


@dataclass(frozen=True)
class Changes:
    """The comparison of a whole corpus.

    Attributes:
        masks: For every file, by its place, packed bits of the rows to embed from each range of ids.
        dropped: Published ids whose rows go, one array per range of ids.
        quarantine: Quarantined rows found without the model.
        differs: Whether there is anything to publish.
        counts: Sums of the ranges' counts.
    """

    masks: dict[int, list[bytes]]
    dropped: list[pa.Array]
    quarantine: list[pa.Table]
    differs: bool
    counts: dict[str, int]


@dataclass(frozen=True)
class MakePipeline:
    """Builds a worker's pipeline in the worker's process."""

    target: Target
    model: Model

    def __call__(self) -> Pipeline:
        """Starts the engine."""
        return Pipeline(self.target, self.model.engine, lambda: self.model.tokenizer)


def run(settings: Settings, make_pipeline: Callable[[Target, Model], Callable[[], Pipeline]] = MakePipeline) -> dict[str, Any]:
    """Brings the index up to date with the corpus.

    Args:
        settings: The settings.
        make_pipeline: How workers build their pipelines; tests put a fake engine here.

    Returns:
        The summary, JSON-ready.

    Raises:
        SettingsError: The settings contradict the model or the published index.
        CorpusError: The corpus cannot be read as configured.
        RefusedError: A gate refused; nothing was published.
        IndexerError: Anything else that ends the run.
    """
    watch = Stopwatch()
    with watch("open"):
        job = _open_finished(settings)
    if job.published is not None and job.is_published:
        return _unchanged(job.published)
    with ExitStack() as stack:
        with watch("connect"):
            cluster = stack.enter_context(Cluster(settings.cluster, settings.engine.replicas_per_gpu))
        with watch("scan"):
            _scan(job, cluster)
        with watch("compare"):
            found = _compare(job, cluster)
        if not found.differs and job.published is not None:
            return _unchanged(job.published)
        publish.check_counts(found.counts, _published_documents(job), settings.gates)
        staged = _stage(job, cluster, found, make_pipeline, watch)
    with watch("publish"):
        names = [job.layout.table(width) for width in job.layout.widths]
        publish.check_vectors(settings.index.uri, job.store, job.epoch, staged.receipts, names, settings.gates)
        intent = job.store.put_intent(_intent(job, found, staged))
        epoch = publish.finish(settings.index.uri, job.store, intent)
    return _summary(epoch) | _times(watch, epoch)


def _open_finished(settings: Settings) -> Job:
    """Opens the job, after finishing the epoch that an earlier run began."""
    job = open_job(settings)
    pending = job.store.pending_intent()
    if pending is None:
        return job
    _say(f"epoch {pending.epoch} was begun by an earlier run: finishing it")
    publish.finish(settings.index.uri, job.store, pending)
    return open_job(settings)


def plan(settings: Settings) -> dict[str, Any]:
    """Says what :func:`run` would do, and does nothing but record digests of the files.

    Args:
        settings: The settings.

    Returns:
        Files, shards, documents, tokens by a sampled estimate, bytes per table, workers; JSON-ready.

    Raises:
        SettingsError: The settings contradict the model or the published index.
        CorpusError: The corpus cannot be read as configured.
    """
    job = open_job(settings)
    with Cluster(settings.cluster, settings.engine.replicas_per_gpu) as cluster:
        _scan(job, cluster)
        found = _compare(job, cluster)
        workers = cluster.workers
    shards = list(_shards(job, found))
    documents = sum(shard.documents for shard in shards)
    tokens, chunks = _estimate(job, shards)
    itemsize = np.dtype(widths.STORED[settings.index.precision]).itemsize
    return {
        "epoch": job.epoch,
        "files": len(job.corpus.files),
        **{name: found.counts[name] for name in ("documents", "new", "changed", "unchanged", "deleted", "quarantined")},
        "shards": len(shards),
        "to_embed": documents,
        "estimated_tokens": tokens,
        "estimated_chunks": chunks,
        "vector_bytes": {job.layout.table(width): chunks * width * itemsize for width in job.layout.widths},
        "workers": min(workers, len(shards)),
    }


def open_job(settings: Settings) -> Job:
    """Opens and checks everything a run needs, before any engine starts.

    Raises:
        SettingsError: The model cannot be had, a width is impossible, or the published index was built otherwise.
        CorpusError: There is no usable corpus.
    """
    corpus = open_corpus(settings.corpus)
    model = open_model(settings.model, settings.engine)
    index = settings.index
    wide = tuple(sorted(index.widths, reverse=True))
    widths.check(wide, model.checkpoint.dimension)
    store = ControlStore(index.uri, index.name)
    published = store.latest_epoch()
    generation = published.generation if published else 1
    layout = Layout(index.name, generation, wide, index.precision, index.metric, corpus.payload)
    if published is not None:
        _refuse_mixture(published, model, layout)
    return Job(settings, corpus, model, layout, store, published)


def _refuse_mixture(published: Epoch, model: Model, layout: Layout) -> None:
    """Vectors of two fingerprints are not comparable, and a table has one schema."""
    ours = {**model.fingerprint, **layout.describe()}
    theirs = {**published.description["fingerprint"], **published.description["layout"]}
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        raise SettingsError(
            f"the published index was built with other {', '.join(differing)}; vectors are never mixed: restore the "
            "settings, or choose another index.name"
        )


def _scan(job: Job, cluster: Cluster) -> None:
    """Records the digest of every file that has none yet."""
    known = job.store.digest_names()
    fresh = [file for file in job.corpus.files if job.digest_name(file) not in known]
    if len(fresh) > 1:
        _say(f"reading {len(fresh)} new or changed files of {len(job.corpus.files)}")
    arguments = ((job.settings, job.corpus, file, job.digest_name(file)) for file in fresh)
    small = sum(file.size for file in fresh) < SMALL_BYTES
    for _ in starmap(_scan_one, arguments) if small else cluster.map(_scan_one, arguments):
        pass


def _scan_one(settings: Settings, corpus: Corpus, file: CorpusFile, name: str) -> None:
    ControlStore(settings.index.uri, settings.index.name).put_digest(name, scan_file(corpus, file))


def _compare(job: Job, cluster: Cluster) -> Changes:
    """Compares the corpus with the published epoch, a range of ids per task."""
    names = [job.digest_name(file) for file in job.corpus.files]
    groups = [group for name in names for group in job.store.digest_groups(name)]
    arguments = ((job.settings, names, job.published, low, high) for low, high in pairwise(_bounds(groups)))
    small = sum(rows for _, rows in groups) < SMALL_ROWS
    found = starmap(_compare_range, arguments) if small else cluster.map(_compare_range, arguments)
    return reduce(_merged, found, Changes({}, [], [], differs=False, counts={}))


def _merged(so_far: Changes, found: Difference) -> Changes:
    for file, mask in found.masks.items():
        so_far.masks.setdefault(file, []).append(mask)
    so_far.dropped.append(found.dropped)
    so_far.quarantine.append(found.quarantine)
    for name, count in found.counts.items():
        so_far.counts[name] = so_far.counts.get(name, 0) + count
    differs = bool(found.masks) or len(found.dropped) > 0 or found.quarantine_changed
    return replace(so_far, differs=so_far.differs or differs)


def _bounds(groups: Sequence[tuple[str | None, int]]) -> list[str | None]:
    """Ids that cut the corpus into ranges of about equal size; ``None`` at both ends.

    Args:
        groups: Least id and number of rows of every row group of the digests.
    """
    rows = sum(count for _, count in groups)
    inner = sorted(least for least, _ in groups if least is not None)
    ranges = -(-rows // changes.RANGE_ROWS)
    cuts = dict.fromkeys(inner[at * len(inner) // ranges] for at in range(1, ranges))
    return [None, *cuts, None]


def _compare_range(
    settings: Settings, names: Sequence[str], published: Epoch | None, low: str | None, high: str | None
) -> Difference:
    store = ControlStore(settings.index.uri, settings.index.name)
    columns = schema.DIGEST_SCHEMA.names
    digests = [_cut(store.digest(name, columns, low, high), low, high) for name in names]
    return changes.compare(
        digests,
        _published_keys(settings.index.uri, published, low, high),
        _published_quarantine(settings.index.uri, published),
        low,
        high,
    )


def _published_keys(uri: str, published: Epoch | None, low: str | None, high: str | None) -> pa.Table:
    columns = [*changes.PUBLISHED_COLUMNS, schema.CHUNK]
    if published is None:
        return pa.schema([*schema.KEY_FIELDS, *schema.HASH_FIELDS]).empty_table().select(columns)
    narrow = published.tables[-1]
    batches = tables.read(uri, narrow.name, narrow.version, columns)
    kept = [_cut(pa.Table.from_batches([b]).filter(pc.field(schema.CHUNK) == 0), low, high) for b in batches]
    return pa.concat_tables(kept) if kept else _published_keys(uri, None, low, high)


def _published_quarantine(uri: str, published: Epoch | None) -> pa.Table:
    if published is None:
        return schema.QUARANTINE_SCHEMA.empty_table().select(changes.QUARANTINE_COLUMNS)
    name, version = published.quarantine
    chosen = pa.schema([schema.QUARANTINE_SCHEMA.field(column) for column in changes.QUARANTINE_COLUMNS])
    return pa.Table.from_batches(tables.read(uri, name, version, changes.QUARANTINE_COLUMNS), chosen)


def _cut(table: pa.Table, low: str | None, high: str | None) -> pa.Table:
    """Rows of the range of ids; null ids belong to the first one. Cutting early keeps the memory of a range small."""
    if low is not None:
        table = table.filter(pc.field(schema.ID) >= low)
    if high is not None:
        table = table.filter((pc.field(schema.ID) < high) | pc.field(schema.ID).is_null())
    return table


def _shards(job: Job, found: Changes) -> Iterator[Shard]:
    salt = canonical([job.model.fingerprint, job.layout.describe(), job.layout.generation, job.epoch])
    return cut_shards(_chosen(job, found), int(job.settings.run.shard_mb * MIB), salt)


def _chosen(job: Job, found: Changes) -> Iterator[tuple[CorpusFile, np.ndarray, np.ndarray]]:
    """Rows to embed of every file with the size of their texts."""
    for at in sorted(found.masks):
        file = job.corpus.files[at]
        rows = changes.merge_masks(found.masks[at])
        digest = job.store.digest(job.digest_name(file), ["row", "text_bytes"])
        sizes = np.empty(digest.num_rows, np.int64)
        sizes[digest["row"].to_numpy()] = digest["text_bytes"].to_numpy()
        yield file, rows, sizes[rows]


@dataclass
class Staged:
    """What is staged for the epoch so far, in numbers; the fragments are in the receipts.

    Attributes:
        receipts: Shards staged.
        quarantine: Quarantined rows that no receipt has.
        documents: Documents staged; likewise chunks, quarantined, truncated and tokens of the receipts.
        resumed: Shards an earlier run had staged.
        resumed_tokens: Tokens of those.
        to_retry: Documents quarantined for reasons that may pass.
    """

    receipts: list[str]
    quarantine: list[pa.Table]
    documents: int = 0
    chunks: int = 0
    quarantined: int = 0
    truncated: int = 0
    tokens: int = 0
    resumed: int = 0
    resumed_tokens: int = 0
    to_retry: int = 0

    def add(self, receipt: Receipt) -> None:
        """Counts a shard."""
        self.receipts.append(receipt.shard_id)
        self.documents += receipt.documents
        self.chunks += receipt.chunks
        self.quarantined += receipt.quarantined
        self.truncated += receipt.truncated
        self.tokens += receipt.tokens


def _stage(
    job: Job,
    cluster: Cluster,
    found: Changes,
    make_pipeline: Callable[[Target, Model], Callable[[], Pipeline]],
    watch: Stopwatch,
) -> Staged:
    """Takes every shard to a receipt, those of an earlier run as they are."""
    tables.ensure(job.settings.index.uri, job.layout.schemas())
    receipts = job.store.receipt_ids(job.epoch)
    staged = Staged([], [_located(table, job.corpus) for table in found.quarantine])
    shards = documents = 0
    for shard in _shards(job, found):
        if shard.shard_id in receipts:
            staged.add(job.store.receipt(job.epoch, shard.shard_id))
            staged.resumed += 1
            staged.resumed_tokens = staged.tokens
        else:
            shards += 1
            documents += shard.documents
    if staged.resumed:
        _say(f"resuming epoch {job.epoch}: {staged.resumed} shards ({staged.documents:,} documents) are staged already")
    if shards:
        _say(f"starting {min(cluster.workers, shards)} workers for {documents:,} documents in {shards} shards")
        target = Target(job.corpus, job.layout, job.settings.index.uri, job.epoch)
        with watch("start"):
            workers = cluster.start_workers(make_pipeline(target, job.model), shards)
        with watch("embed"), Progress(documents, workers, job.settings.run.progress) as progress:
            rest = (shard for shard in _shards(job, found) if shard.shard_id not in receipts)
            _embed(job, cluster.run(rest, job.settings.run.retries), staged, progress)
    return staged


def _embed(job: Job, outcomes: Iterable[Receipt | GivenUp], staged: Staged, progress: Progress) -> None:
    for outcome in outcomes:
        if isinstance(outcome, GivenUp):
            rows = _given_up(job, outcome)
            staged.quarantine.append(rows)
            staged.to_retry += rows.num_rows
            progress.add(rows.num_rows, 0)
        else:
            staged.add(outcome)
            progress.add(outcome.documents + outcome.quarantined, outcome.tokens)


def _given_up(job: Job, outcome: GivenUp) -> pa.Table:
    """Quarantine rows of every document of a shard that no worker could finish."""
    _say(f"shard {outcome.shard.shard_id} is given up into the quarantine: {outcome.reason}")
    found = [_given_up_part(job, part) for part in outcome.shard.parts]
    rows = pa.concat_tables(found)
    return _quarantine_rows(rows, outcome.shard.shard_id, outcome.reason)


def _given_up_part(job: Job, part: Part) -> pa.Table:
    columns = [schema.ID, "row", schema.CONTENT_HASH, schema.PAYLOAD_HASH]
    wanted = pa.array(np.flatnonzero(part.chosen) + part.start)
    digest = job.store.digest(job.digest_name(part.file), columns)
    rows = digest.filter(pc.is_in(digest["row"], value_set=wanted))
    count = rows.num_rows
    return rows.append_column("file", pa.array([part.file.path] * count, pa.string())).append_column(
        "reason", pa.array([Fate.SHARD_FAILED.value] * count, pa.string())
    )


def _located(quarantine: pa.Table, corpus: Corpus) -> pa.Table:
    """Rows of a comparison with the paths of their files."""
    paths = pa.array([file.path for file in corpus.files], pa.string())
    at = quarantine.schema.get_field_index("file")
    located = quarantine.set_column(at, "file", paths.take(quarantine["file"].combine_chunks()))
    return _quarantine_rows(located, shard="", detail=None)


def _quarantine_rows(rows: pa.Table, shard: str, detail: str | None) -> pa.Table:
    """Rows in the quarantine's schema; the detail is the fate's own sentence where none is given."""
    details = [detail or Fate(reason).description for reason in rows["reason"].to_pylist()]
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {"shard": pa.array([shard] * rows.num_rows, pa.string()), "detail": pa.array(details, pa.string())}
    target = schema.QUARANTINE_SCHEMA
    return pa.table([columns[field.name].cast(field.type) for field in target], schema=target)


def _intent(job: Job, found: Changes, staged: Staged) -> Intent:
    uri, layout = job.settings.index.uri, job.layout
    bases = tables.ensure(uri, layout.schemas()) | (job.published.versions() if job.published else {})
    quarantine = pa.concat_tables([schema.QUARANTINE_SCHEMA.empty_table(), *staged.quarantine])
    dropped = [ids for ids in found.dropped if len(ids)]
    model = job.model.describe()
    return Intent(
        epoch=job.epoch,
        generation=layout.generation,
        bases={name: bases[name] for name in layout.schemas()},
        widths={layout.table(width): width for width in layout.widths},
        quarantine_table=layout.quarantine,
        vector_index=job.settings.index.vector_index,
        receipts=staged.receipts,
        quarantine=tables.stage(uri, layout.quarantine, quarantine) if quarantine.num_rows else [],
        removals=[job.store.put_removals(job.epoch, f"{at:06d}", ids) for at, ids in enumerate(dropped)],
        documents=found.counts["unchanged"] + staged.documents,
        metadata={
            "fingerprint": canonical(job.model.fingerprint),
            "metric": layout.metric,
            **{key: str(model[key]) for key in ("name", "revision", "dimension", "query_template")},
            "query_instruction": str(model["query_instruction"]),
        },
        description={
            "fingerprint": job.model.fingerprint,
            "layout": layout.describe(),
            "corpus": job.corpus.digest,
            "model": model,
            "to_retry": staged.to_retry,
            "counts": found.counts,
            "run": {
                "documents": found.counts["documents"],
                "indexed": staged.documents,
                "quarantined": quarantine.num_rows + staged.quarantined,
                "truncated": staged.truncated,
                "chunks": staged.chunks,
                "tokens": staged.tokens,
                "resumed_shards": staged.resumed,
                "resumed_tokens": staged.resumed_tokens,
            },
        },
    )


def _published_documents(job: Job) -> int:
    if job.published is None:
        return 0
    return int(job.published.description["counts"]["unchanged"]) + int(job.published.description["run"]["indexed"])


def _summary(epoch: Epoch) -> dict[str, Any]:
    changed = {name: epoch.description["counts"][name] for name in ("new", "changed", "unchanged", "deleted")}
    return {
        "epoch": epoch.number,
        **epoch.description["run"],
        **changed,
        "duplicates": epoch.description["counts"]["duplicates"],
        "gates": epoch.description["gates"],
        "tables": _tables(epoch),
    }


def _times(watch: Stopwatch, epoch: Epoch) -> dict[str, Any]:
    """Seconds of the run in all and by stage, and the rate while the engines were at work."""
    seconds = {stage: round(value, 3) for stage, value in watch.seconds.items()}
    tokens = epoch.description["run"]["tokens"] - epoch.description["run"]["resumed_tokens"]
    rate = tokens / watch.seconds["embed"] if "embed" in watch.seconds else 0.0
    return {"seconds": round(sum(watch.seconds.values()), 3), "stages": seconds, "tokens_per_second": round(rate, 1)}


def _unchanged(epoch: Epoch) -> dict[str, Any]:
    """Summary of a run that had nothing to do."""
    _say(f"nothing changed since epoch {epoch.number}: nothing embedded, nothing published")
    nothing = dict.fromkeys(("indexed", "quarantined", "truncated", "chunks", "tokens", "seconds", "tokens_per_second"), 0)
    documents = epoch.description["run"]["documents"]
    return {"epoch": epoch.number, "documents": documents, **nothing, "tables": _tables(epoch)}


def _tables(epoch: Epoch) -> list[dict[str, Any]]:
    return [table.model_dump(include={"name", "width", "rows", "bytes", "index"}) for table in epoch.tables]


def _estimate(job: Job, shards: Sequence[Shard]) -> tuple[int, int]:
    """Tokens and chunks of the shards, from the ratio to text bytes in a few of them."""
    sampled = random.Random(0).sample(shards, min(len(shards), 3))  # noqa: S311  # a sample, not a secret
    documents = [texts for shard in sampled for texts in _first_texts(job.corpus, shard)]
    tokens = job.model.tokenizer.documents(documents)
    size = max(1, sum(len(text.encode()) for text in documents))
    total_bytes, total = sum(shard.text_bytes for shard in shards), sum(shard.documents for shard in shards)
    chunks_per_document = len(tokens.ids) / max(1, len(documents))
    return round(sum(map(len, tokens.ids)) / size * total_bytes), round(chunks_per_document * total)


def _first_texts(corpus: Corpus, shard: Shard) -> list[str]:
    texts: list[str] = []
    for documents in read_shard(corpus, shard):
        texts += documents.texts
        if len(texts) >= SAMPLED_DOCUMENTS:
            break
    return texts[:SAMPLED_DOCUMENTS]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
