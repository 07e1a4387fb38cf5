"""Compares only the documents of files that were added, changed or removed since the published epoch.

The result is that of :mod:`indexer.indexing.diff` on the whole corpus. It rests on two facts. All rows of an id that no
such file has are the rows that the published epoch was made of. And the published tables and the quarantine together
tell every row that the epoch was made of, apart from further copies of a document.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import IndexerError
from indexer.indexing import diff
from indexer.indexing.diff import COPIED_SCHEMA, LEFT_OUT, PUBLISHED_COLUMNS, QUARANTINE_COLUMNS, RangeDiff, Status
from indexer.schema import CONTENT_HASH, DIGEST_SCHEMA, ID, PAYLOAD_HASH

VALUES = (CONTENT_HASH, PAYLOAD_HASH, "reason")
"""What decides on a row beside its id."""

ROW_COLUMNS = (*diff.COMPARED, "file")

REMAINING = (Status.NEW, Status.CHANGED, Status.PAYLOAD_CHANGED, Status.UNCHANGED)
"""How documents that an epoch holds can differ from the one before."""


class ContradictionError(IndexerError):
    """The published epoch is not what its list of digests gives: only the whole comparison can tell what to do."""


@dataclass(frozen=True)
class Known:
    """What is known of the published epoch and of the files that stayed as they were.

    Attributes:
        published: Columns ``id``, ``content_hash``, ``payload_hash`` of the published documents with given ids.
        elsewhere: Rows of given ids in the unchanged files, as :func:`indexer.indexing.diff.rows_of` gives them.
        quarantine: The published quarantine, columns of :data:`indexer.indexing.diff.LEFT_OUT`. ``file`` is the place
            in tonight's list, null for a file that is not among the unchanged ones.
        copied: Ids of the range that had further rows with the same text, which no table tells, columns of
            :data:`indexer.indexing.diff.COPIED_SCHEMA`; ``None`` if any may have had some.
        left_out: Tonight's quarantined rows of files that never could be read, of which the epoch had none but such
            rows; columns of :data:`indexer.indexing.diff.LEFT_OUT`.
    """

    published: Callable[[pl.Series], pa.Table]
    elsewhere: Callable[[pl.Series], pl.DataFrame]
    quarantine: pa.Table
    copied: pl.DataFrame | None
    left_out: pa.Table


def compare(
    added: Mapping[int, pa.Table], removed: Sequence[pa.Table], known: Known, low: str | None, high: str | None
) -> RangeDiff:
    """Compares a range of ids.

    Args:
        added: Digests of the new and changed files by the place of the file in the list.
        removed: Digests that the changed files had, and those of the files that are gone.
        known: The published epoch and the unchanged files.
        low: Least id of the range; with ``None`` it also holds the null ids.
        high: Id above the last one of the range, or ``None``.

    Returns:
        The difference, as of the whole corpus, but for three counts that :func:`completed` makes: ``documents`` says by
        how many rows the corpus has grown, ``unchanged`` and ``duplicates`` are of no use.

    Raises:
        ContradictionError: The published epoch is not what its files give.
    """
    now = _in_one(low, high, [diff.rows_of(table, at) for at, table in added.items()])
    gone = _in_one(low, high, [diff.rows_of(table, -1) for table in removed])
    refused = diff.in_range(pl.DataFrame(pl.from_arrow(known.quarantine)), low, high)
    touched = _touched(now, gone, refused)
    before = _only(pl.DataFrame(pl.from_arrow(known.published(touched))), touched).select(PUBLISHED_COLUMNS)
    stays = pl.col("file").is_not_null()
    is_touched = pl.col(ID).is_in(touched.implode())
    compared = refused.filter(is_touched | (pl.col(ID).is_null() & ~stays))
    carried = refused.filter(~is_touched.fill_null(value=False) & (pl.col(ID).is_not_null() | stays))
    if carried["file"].null_count():
        raise ContradictionError("the published quarantine names a document that its file did not have")
    elsewhere = _elsewhere(touched, gone, before, compared.filter(is_touched), known)
    unreadable = diff.in_range(pl.DataFrame(pl.from_arrow(known.left_out)), low, high).select(LEFT_OUT)
    found = diff.compare_rows(
        pl.concat([_only(now, touched, nulls=True), elsewhere]),
        before,
        compared.select(QUARANTINE_COLUMNS),
        left_out=[unreadable],
    )
    quarantine = pl.concat([pl.DataFrame(pl.from_arrow(found.quarantine)), carried.select(LEFT_OUT)])
    counts = {"documents": now.height + unreadable.height - gone.height, "quarantined": quarantine.height}
    return replace(
        found,
        quarantine=quarantine.sort("file", "row").to_arrow(),
        copied=_copied(known, touched, found.copied),
        counts=found.counts | counts,
    )


def _copied(known: Known, touched: pl.Series, found: pa.Table | None) -> pa.Table | None:
    """The copies of the range: those of other ids are as they were."""
    if known.copied is None or found is None:
        return None
    others = known.copied.filter(~pl.col(ID).is_in(touched.implode()))
    return pl.concat([others, pl.DataFrame(pl.from_arrow(found))]).sort(ID).to_arrow().cast(COPIED_SCHEMA)


def completed(
    counts: Mapping[str, int], corpus_rows: int, published: int, copied: Sequence[pa.Table] | None
) -> dict[str, int]:
    """The counts of a whole comparison.

    Args:
        counts: Sums of the counts of :func:`compare` over all ranges.
        corpus_rows: Rows of the corpus that the published epoch was made of.
        published: Documents that it holds.
        copied: The copies of all ranges; ``None`` if not known.

    Raises:
        ContradictionError: They do not add up.
    """
    documents = corpus_rows + counts["documents"]
    # Every published document is unchanged, changed or deleted, and every row is quarantined, a document or a copy.
    unchanged = published - sum(counts[status] for status in (Status.CHANGED, Status.PAYLOAD_CHANGED, Status.DELETED))
    found = {**counts, "documents": documents, Status.UNCHANGED.value: unchanged}
    duplicates = documents - counts["quarantined"] - sum(found[status] for status in REMAINING)
    if min(unchanged, duplicates) < 0:
        raise ContradictionError("the counts of the published epoch do not fit its files")
    if copied is not None and sum(pc.sum(part["further"]).as_py() or 0 for part in copied) != duplicates:
        raise ContradictionError("the copies of the published epoch do not fit its files")
    return {**found, "duplicates": duplicates}


def _in_one(low: str | None, high: str | None, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Rows of several digests in the range."""
    nothing = diff.rows_of(DIGEST_SCHEMA.empty_table(), 0)
    return diff.in_range(pl.concat([frame.select(ROW_COLUMNS) for frame in (nothing, *frames)]), low, high)


def _touched(now: pl.DataFrame, gone: pl.DataFrame, refused: pl.DataFrame) -> pl.Series:
    """Ids whose rows differ from those that the epoch was made of, and refused ids, whose rows are named by place."""
    signed = [frame.select(ID, *VALUES, pl.lit(sign).alias("rows")) for frame, sign in ((now, 1), (gone, -1))]
    rows = pl.concat(signed).filter(pl.col(ID).is_not_null())
    other = rows.group_by(ID, *VALUES).agg(pl.col("rows").sum()).filter(pl.col("rows") != 0)[ID]
    named = pl.concat([rows.filter(pl.col("reason").is_not_null())[ID], refused[ID]])
    return pl.concat([other, rows.filter(pl.col(ID).is_in(named.implode()))[ID]]).unique().sort()


def _elsewhere(
    touched: pl.Series, gone: pl.DataFrame, before: pl.DataFrame, refused: pl.DataFrame, known: Known
) -> pl.DataFrame:
    """Rows of the touched ids in the unchanged files.

    Args:
        touched: The ids.
        gone: Rows that the epoch was made of and that are gone.
        before: Their published documents.
        refused: Their quarantined rows.
        known: What is known.
    """
    were = gone.filter(pl.col("reason").is_null() & pl.col(ID).is_in(touched.implode()))
    told = pl.concat([before[ID], refused[ID]])
    if not were.filter(~pl.col(ID).is_in(told.implode())).is_empty():
        raise ContradictionError("a document of the published epoch is neither published nor quarantined")
    if known.copied is None:
        return _only(known.elsewhere(touched), touched).select(ROW_COLUMNS)
    copied = touched.filter(touched.is_in(known.copied[ID].implode()))
    has_one = ~pl.col(ID).is_in(copied.implode())
    were, before, refused = (frame.filter(has_one) for frame in (were, before, refused))
    if were.join(before, on=ID, suffix="_before").filter(_differs(CONTENT_HASH) | _differs(PAYLOAD_HASH)).height:
        raise ContradictionError("a published document is not what its file had")
    # Without copies, a published document stands in one file: in one of these, or its row is gone.
    rows = (before.filter(~pl.col(ID).is_in(were[ID].implode())), refused.filter(pl.col("file").is_not_null()))
    standing = pl.concat([frame[ID] for frame in rows])
    wanted = pl.concat([standing, copied]).unique().sort()
    found = _only(known.elsewhere(wanted), wanted) if len(wanted) else gone.clear()
    if found.filter(has_one).height != len(standing):
        raise ContradictionError("unchanged files do not have the rows that the published epoch was made of")
    return found.select(ROW_COLUMNS)


def _differs(column: str) -> pl.Expr:
    """Whether a joined column differs from the published one."""
    return pl.col(column) != pl.col(f"{column}_before")


def _only(frame: pl.DataFrame, ids: pl.Series, *, nulls: bool = False) -> pl.DataFrame:
    """Rows with one of the ids; rows without id too if asked for."""
    chosen = pl.col(ID).is_in(ids.implode()).fill_null(value=False)
    return frame.filter(chosen | pl.col(ID).is_null() if nulls else chosen)
