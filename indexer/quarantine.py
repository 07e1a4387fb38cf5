"""Quarantine rows that the driver knows of; those that workers find are staged by the workers."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer import schema
from indexer.cluster import GivenUp
from indexer.corpus import Corpus, Part, Shard
from indexer.fates import Fate
from indexer.job import Job
from indexer.progress import say


def given_up(job: Job, outcome: GivenUp[Shard]) -> pa.Table:
    """Quarantine rows of every document of a shard that no worker could finish."""
    say(f"shard {outcome.piece.shard_id} is given up into the quarantine: {outcome.reason}")
    found = [_given_up_part(job, part) for part in outcome.piece.parts]
    rows = pa.concat_tables(found)
    return _quarantine_rows(rows, outcome.piece.shard_id, outcome.reason)


def _given_up_part(job: Job, part: Part) -> pa.Table:
    columns = [schema.ID, "row", schema.CONTENT_HASH, schema.PAYLOAD_HASH]
    wanted = pa.array(np.flatnonzero(part.chosen) + part.start)
    digest = job.store.digest(job.digest_name(part.file), columns)
    rows = digest.filter(pc.is_in(digest["row"], value_set=wanted))
    count = rows.num_rows
    return rows.append_column("file", pa.array([part.file.path] * count, pa.string())).append_column(
        "reason", pa.array([Fate.SHARD_FAILED.value] * count, pa.string())
    )


def located(quarantine: pa.Table, corpus: Corpus) -> pa.Table:
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
