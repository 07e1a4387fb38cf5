"""Builds quarantine rows. The driver stages its own; workers stage theirs with their shards."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.corpus.documents import Corpus
from indexer.corpus.files import retry_once
from indexer.corpus.shards import FileRows, Shard
from indexer.errors import BadFile
from indexer.indexing.job import Job
from indexer.indexing.scan import Unread
from indexer.progress import say
from indexer.reasons import QuarantineReason
from indexer.storage.control import ControlStore


def quarantine_rows(documents: pa.Table, **given: pa.Array | str) -> pa.Table:
    """Builds rows of the quarantine; no other place does.

    Args:
        documents: Columns of :data:`indexer.schema.QUARANTINE_SCHEMA` that differ from document to document.
        given: The other columns, or one text for all documents.
    """
    target = schema.QUARANTINE_SCHEMA
    columns = {name: documents[name] for name in documents.schema.names}
    for name, value in given.items():
        columns[name] = pa.repeat(value, documents.num_rows) if isinstance(value, str) else value
    return pa.table([columns[field.name].cast(field.type) for field in target], schema=target)


def rows_of_killed_shard(job: Job, shard: Shard, reason: str) -> pa.Table:
    """Quarantine rows of documents that killed workers, mostly one.

    Args:
        job: The run's inputs.
        shard: The shard that was given up.
        reason: How the last worker died.
    """
    detail = f"{QuarantineReason.POISON.description}: {reason}"
    rows = [
        rows_of_file(job.store, job.corpus, part, shard.shard_id, QuarantineReason.POISON, detail)
        for part in shard.parts
    ]
    found = pa.concat_tables(rows)
    for file, row in zip(found["file"].to_pylist(), found["row"].to_pylist(), strict=True):
        say(f"row {row} of {file} goes to the quarantine: {detail}", "WARNING")
    return found


def rows_of_changes(quarantine: pa.Table, corpus: Corpus, unread: Mapping[str, Unread]) -> pa.Table:
    """A comparison's rows in the quarantine's schema, with path and detail.

    Args:
        quarantine: Rows as in :class:`indexer.indexing.changes.Changes`.
        corpus: The corpus.
        unread: Files that could not be read, by the name of their digest.
    """
    at, reasons = (quarantine[name].to_pylist() for name in ("file", "reason"))
    left = {number: unread.get(corpus.digest_name(corpus.files[number])) for number in set(at)}
    details = [
        file.detail if (file := left[number]) else QuarantineReason(reason).description
        for number, reason in zip(at, reasons, strict=True)
    ]
    paths = pa.array([corpus.files[number].path for number in at], pa.string())
    return quarantine_rows(quarantine, shard="", file=paths, detail=pa.array(details, pa.string()))


ReadT = TypeVar("ReadT")


def each_part(
    control: ControlStore, corpus: Corpus, shard: Shard, read: Callable[[FileRows], list[ReadT]]
) -> tuple[list[ReadT], pa.Table]:
    """Reads the parts of a shard and skips files that became unreadable since the comparison.

    Args:
        control: Control files of the index.
        corpus: The corpus.
        shard: The shard.
        read: Reads one part.

    Returns:
        The results of ``read``, and quarantine rows of the skipped documents.
    """
    found: list[ReadT] = []
    unread = schema.QUARANTINE_SCHEMA.empty_table()
    for part in shard.parts:
        try:
            found += retry_once(corpus.settings.uri, partial(read, part))
        except BadFile as error:
            rows = rows_of_file(control, corpus, part, shard.shard_id, QuarantineReason.BAD_FILE, str(error))
            unread = pa.concat_tables([unread, rows])
    return found, unread


def rows_of_file(
    control: ControlStore,
    corpus: Corpus,
    part: FileRows,
    shard_id: str,
    reason: QuarantineReason,
    detail: str | None = None,
) -> pa.Table:
    """Quarantine rows of all documents of a part, from the file's digest.

    Args:
        control: Control files of the index.
        corpus: The corpus.
        part: The rows.
        shard_id: Their shard.
        reason: The reason.
        detail: A sentence without text of the documents; the reason's own where none is given.

    Returns:
        Rows of :data:`indexer.schema.QUARANTINE_SCHEMA`.
    """
    columns = [schema.ID, "row", schema.CONTENT_HASH, schema.PAYLOAD_HASH]
    digest = control.digests.read(corpus.digest_name(part.file), columns)
    rows = digest.filter(pc.is_in(digest["row"], value_set=pa.array(np.flatnonzero(part.chosen) + part.start)))
    detail = detail or reason.description
    return quarantine_rows(rows, shard=shard_id, file=part.file.path, reason=reason.value, detail=detail)
