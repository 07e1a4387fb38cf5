"""Quarantine rows that the driver knows of; those that workers find are staged by the workers."""

from collections.abc import Mapping

import pyarrow as pa

from indexer import schema
from indexer.comparison import Unread
from indexer.corpus import Corpus, Shard
from indexer.embedding import left_out
from indexer.fates import Fate
from indexer.job import Job
from indexer.progress import say


def poison(job: Job, shard: Shard, reason: str) -> pa.Table:
    """Quarantine rows of the documents, mostly one, that workers died of.

    Args:
        job: The run's inputs.
        shard: What was given up.
        reason: What was seen of it.
    """
    detail = f"{Fate.POISON.description}: {reason}"
    rows = [left_out(job.store, job.corpus, part, shard.shard_id, Fate.POISON, detail) for part in shard.parts]
    found = pa.concat_tables(rows)
    for file, row in zip(found["file"].to_pylist(), found["row"].to_pylist(), strict=True):
        say(f"row {row} of {file} goes to the quarantine: {detail}")
    return found


def located(quarantine: pa.Table, corpus: Corpus, unread: Mapping[str, Unread]) -> pa.Table:
    """Rows of a comparison in the quarantine's schema: with the paths of their files, and why.

    Args:
        quarantine: Rows as :class:`indexer.comparison.Changes` has them.
        corpus: The corpus.
        unread: Files that could not be read, by the name of their digest.
    """
    count = quarantine.num_rows
    at, reasons = (quarantine[name].to_pylist() for name in ("file", "reason"))
    left = {number: unread.get(corpus.digest_name(corpus.files[number])) for number in set(at)}
    details = [
        file.detail if (file := left[number]) else Fate(reason).description
        for number, reason in zip(at, reasons, strict=True)
    ]
    columns = {name: quarantine[name] for name in quarantine.column_names}
    columns |= {
        "file": pa.array([corpus.files[number].path for number in at], pa.string()),
        "shard": pa.array([""] * count, pa.string()),
        "detail": pa.array(details, pa.string()),
    }
    target = schema.QUARANTINE_SCHEMA
    return pa.table([columns[field.name].cast(field.type) for field in target], schema=target)
