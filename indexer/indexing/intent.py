"""Builds the intent: the complete description of the next epoch."""

from collections.abc import Sequence

import pyarrow as pa

from indexer import schema
from indexer.indexing.changes import Changes
from indexer.indexing.job import Job
from indexer.indexing.journal import Journal
from indexer.indexing.searched import search_entries
from indexer.indexing.staged import Staged
from indexer.publishing.gates import Gate
from indexer.storage import commits, tables
from indexer.storage.description import Counts, Description, EngineRecord, LayoutRecord, ModelRecord, RunTotals
from indexer.storage.records import Intent, Sums, canonical, encoded_columns

REUSED = ("moved", "payload_changed", "copied")
"""Counts of documents that got vectors that existed."""


def make_intent(job: Job, found: Changes, staged: Staged, hold: Sequence[Gate], watch: Journal) -> Intent:
    """Describes the epoch that the staged shards become."""
    uri, layout = job.settings.index.uri, job.layout
    remade = job.change.remade
    stays = [table for table in (job.published.tables if job.published else []) if table.name not in remade]
    versions = job.published.versions() if job.published else {}
    schemas = layout.schemas()
    bases = {name: commits.NOTHING if name in remade else versions.get(name, commits.NOTHING) for name in schemas}
    quarantine = pa.concat_tables([schema.QUARANTINE_SCHEMA.empty_table(), *staged.quarantine])
    night = job.store.engine(job.epoch, job.model.fingerprint_digest)
    engine = night or (job.published.description.engine if job.published else None)
    return Intent(
        epoch=job.epoch,
        generation=layout.generation,
        bases=bases,
        widths={layout.table(width): width for width in layout.widths},
        **({"documents_table": layout.documents} if layout.documents is not None else {}),
        quarantine_table=layout.quarantine,
        vector_index=job.settings.index.vector_index,
        trained_rows={table.name: table.trained_rows for table in stays if table.trained_rows is not None},
        receipts=staged.receipts,
        quarantine=tables.stage(uri, layout.quarantine, quarantine) if quarantine.num_rows else [],
        removals=staged.removals,
        documents=found.counts["unchanged"] + found.counts["kept"] + staged.documents,
        metadata=_metadata(job),
        # A comparison in full goes with tables that are read in full, and indices that are measured.
        sums={} if found.in_full else _sums(job),
        recalls={} if found.in_full else {table.name: table.recall for table in stays if table.recall is not None},
        columns={name: encoded_columns(schemas[name]) for name, base in bases.items() if base == commits.NOTHING},
        description=Description(
            fingerprint=job.model.fingerprint,
            layout=LayoutRecord(**layout.describe()),
            corpus=job.corpus.digest,
            text_columns=job.settings.corpus.text_columns,
            skip_empty=job.corpus.skip_empty,
            files=job.store.digests.put_list(job.epoch, found.digests),
            **_copies(job, found),
            model=ModelRecord(**job.model.describe()),
            to_retry=staged.to_retry,
            counts=Counts(**found.counts | {name: getattr(staged, name) for name in REUSED}),
            gates={gate.name: gate.measured for gate in hold} | _published_cosine(night),
            bounds={gate.name: gate.allowed for gate in hold} | _least_cosine(night),
            run=_totals(found, staged, watch),
            engine=engine,
            checked_in_full=_checked_in_full(job, found),
            **search_entries(job.settings.index),
        ),
    )


def _copies(job: Job, found: Changes) -> dict[str, str]:
    """Entry for the ids that have further rows, where there are some and they are known."""
    copied = [part for part in found.copied or () if part.num_rows]
    return {"copies": job.store.digests.put_copies(job.epoch, pa.concat_tables(copied))} if copied else {}


def _metadata(job: Job) -> dict[str, str]:
    """What the tables themselves tell of their vectors."""
    model = job.model.describe()
    told = ("name", "revision", "dimension", "query_template", "query_instruction")
    fingerprint = {"fingerprint": canonical(job.model.fingerprint), "metric": job.layout.metric}
    return fingerprint | {key: str(model[key]) for key in told}


def _checked_in_full(job: Job, found: Changes) -> int | None:
    """The last epoch for which the whole corpus was compared."""
    return job.epoch if found.in_full or job.published is None else job.published.description.checked_in_full


def _sums(job: Job) -> dict[str, Sums]:
    """Sums of the published tables that are not written anew."""
    published = job.published.searched if job.published else []
    return {
        table.name: table.sums for table in published if table.sums is not None and table.name not in job.change.remade
    }


def _published_cosine(night: EngineRecord | None) -> dict[str, float]:
    """The gate that the night's engines passed; empty without engines or without a published epoch."""
    if night is None or night.published_cosine is None:
        return {}
    return {"gates.published_cosine": night.published_cosine}


def _least_cosine(night: EngineRecord | None) -> dict[str, float]:
    """The bound of :func:`_published_cosine`."""
    return dict.fromkeys(_published_cosine(night), night.least_cosine) if night is not None else {}


def _totals(found: Changes, staged: Staged, watch: Journal) -> RunTotals:
    """Totals of the run, over the shards of earlier runs too."""
    return RunTotals(
        documents=found.counts["documents"],
        indexed=staged.documents - staged.moved - staged.payload_changed,
        quarantined=found.counts["quarantined"] + staged.quarantined,
        truncated=staged.truncated,
        chunks=staged.chunks,
        tokens=staged.tokens,
        resumed_shards=staged.resumed,
        resumed_tokens=staged.resumed_tokens,
        restarts=staged.restarts,
        tokens_per_second=_rate(staged, watch),
        gpus=watch.gpus,
        embedded=staged.embedded,
        ready_gpu_hours=round(watch.ready_gpu_hours, 6),
        compile_seconds=watch.compile_seconds,
    )


def _rate(staged: Staged, watch: Journal) -> float:
    """Tokens per second while the engines worked; 0 if this run needed none."""
    seconds = watch.seconds.get("embed", 0.0)
    return round((staged.tokens - staged.resumed_tokens) / seconds, 1) if seconds else 0.0
