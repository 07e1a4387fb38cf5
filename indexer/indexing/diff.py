"""Compares corpus digests with the published index: new, changed, deleted, duplicate, unusable. Pure polars."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import polars as pl
import pyarrow as pa

from indexer.reasons import QuarantineReason
from indexer.schema import CONTENT_HASH, CONTENT_HASH_TYPE, ID, PAYLOAD_HASH

FOUND_BY_WORKERS = frozenset(
    {QuarantineReason.NO_TOKENS, QuarantineReason.TOO_LONG, QuarantineReason.BAD_VECTOR, QuarantineReason.POISON}
)
"""Reasons that only tokenizer or engine can find. They hold as long as the text does not change."""

PUBLISHED_COLUMNS = (ID, CONTENT_HASH, PAYLOAD_HASH)

QUARANTINE_COLUMNS = (ID, "reason", CONTENT_HASH)

LEFT_OUT = (ID, "file", "row", "reason", CONTENT_HASH, PAYLOAD_HASH)
"""Columns of a comparison's quarantined rows."""

COMPARED = ("row", ID, CONTENT_HASH, PAYLOAD_HASH, "text_bytes", "reason")
"""Columns of a digest that a comparison reads, in the digest's order."""

COPIED_SCHEMA = pa.schema([(ID, pa.string()), ("further", pa.int64())])


class Status(StrEnum):
    """How an id differs from the published epoch."""

    NEW = "new"
    CHANGED = "changed"
    PAYLOAD_CHANGED = "payload_changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    KEPT = "kept"


@dataclass(frozen=True)
class Unreadable:
    """Files that cannot be read tonight.

    Attributes:
        rows: One quarantined row per file: columns id (null), file (place in the list), row, reason, content_hash,
            payload_hash.
        ids: Ids that the files had when they were last read; ``None`` if not known. Then every published document that
            no other file has may be theirs.
    """

    rows: pa.Table
    ids: pa.ChunkedArray | None


@dataclass(frozen=True)
class RangeDiff:
    """The difference of one range of ids.

    Attributes:
        rows: Rows of new and changed documents, int64, for each file by its place in the list.
        payload_rows: Rows of the documents of which only the payload changed, likewise.
        deleted: Published ids whose document is gone or no longer usable: their rows are deleted.
        changed: Published ids whose document has another text: their rows are replaced.
        payload_changed: Published ids whose document has another payload alone: their rows are replaced.
        quarantine: Columns id, file (place in the list), row, reason, content_hash, payload_hash.
        quarantine_changed: Whether the quarantine differs from the published one.
        arrivals: uint64 array, the first eight bytes of the content hash of every new and changed document.
        departures: Columns content_hash, id of the deleted documents.
        copied: Ids with further rows of the same text and their number, :data:`COPIED_SCHEMA`; ``None`` if not known.
        counts: Every :class:`Status`, documents, duplicates, quarantined, text_bytes (of new and changed documents).
    """

    rows: dict[int, np.ndarray]
    payload_rows: dict[int, np.ndarray]
    deleted: pa.Array
    changed: pa.Array
    payload_changed: pa.Array
    quarantine: pa.Table
    quarantine_changed: bool
    arrivals: np.ndarray
    departures: pa.Table
    copied: pa.Table | None
    counts: dict[str, int]

    @property
    def dropped(self) -> pa.Array:
        """Published ids whose rows go."""
        return pa.concat_arrays([self.deleted, self.changed, self.payload_changed])


def compare(
    digests: Iterable[pa.Table],
    published: pa.Table,
    quarantined: pa.Table,
    low: str | None,
    high: str | None,
    *,
    payload_differs: bool = False,
    unreadable: Unreadable | None = None,
) -> RangeDiff:
    """Compares a range of ids.

    Args:
        digests: Columns :data:`COMPARED` of the digest of every file, one at a time; rows outside the range are
            ignored.
        published: Columns ``id``, ``content_hash``, ``payload_hash`` of the published documents.
        quarantined: Columns ``id``, ``reason``, ``content_hash`` of the published quarantine.
        low: Least id of the range; with ``None`` it also holds the null ids.
        high: Id above the last one of the range, or ``None``.
        payload_differs: Whether the payload's columns differ from the published ones, and with them every payload.
        unreadable: Files without a digest, by default none.

    Returns:
        The difference.
    """
    # Cut one by one: of all digests together, only the rows of the range are held.
    corpus = pl.concat([in_range(rows_of(digest, at), low, high) for at, digest in enumerate(digests)])
    before = in_range(pl.DataFrame(pl.from_arrow(published)), low, high)
    del published  # the frame is a copy
    refused_before = in_range(pl.DataFrame(pl.from_arrow(quarantined)), low, high)
    left_out = [in_range(pl.DataFrame(pl.from_arrow(unreadable.rows)), low, high)] if unreadable else []
    kept = _kept(before, corpus, unreadable)
    return compare_rows(corpus, before, refused_before, kept, left_out, payload_differs=payload_differs)


def rows_of(digest: pa.Table, file: int) -> pl.DataFrame:
    """Rows of a digest with the place of its file in the list as column ``file``."""
    return pl.DataFrame(pl.from_arrow(digest)).with_columns(file=pl.lit(file, pl.Int32))


def compare_rows(
    corpus: pl.DataFrame,
    before: pl.DataFrame,
    refused_before: pl.DataFrame,
    kept: pl.Series | None = None,
    left_out: Sequence[pl.DataFrame] = (),
    *,
    payload_differs: bool = False,
) -> RangeDiff:
    """Compares rows of the corpus with what is published of their ids.

    Args:
        corpus: Every row of these ids, as :func:`rows_of` gives them.
        before: Columns ``id``, ``content_hash``, ``payload_hash`` of the published documents.
        refused_before: Columns ``id``, ``reason``, ``content_hash`` of the published quarantine.
        kept: Published ids that stay although no row has them.
        left_out: Quarantined rows of unreadable files.
        payload_differs: Whether the payload's columns differ from the published ones, and with them every payload.

    Returns:
        The difference.
    """
    kept = pl.Series(ID, [], pl.String) if kept is None else kept
    # Rows with a reason were refused while the file was read. Every other id must occur once.
    usable = corpus.filter(pl.col("reason").is_null()).drop("reason")
    documents, is_doubled = usable.height, usable[ID].is_duplicated()
    kept_copies, conflicting, copied = _sorted_out(usable.filter(is_doubled))
    unique = pl.concat([usable.filter(~is_doubled), kept_copies])
    # Frames of a million rows are let go as soon as the next one is made: a task's peak is their sum.
    del usable, is_doubled
    # Join the published quarantine by id and text: a text that workers refused stays refused without another try.
    remembered = refused_before.filter(pl.col("reason").is_in(FOUND_BY_WORKERS)).unique([ID, CONTENT_HASH])
    unique = unique.join(remembered, on=[ID, CONTENT_HASH], how="left")

    # The quarantine: refused while read, conflicting ids, refused by workers before, and one row per unreadable file.
    refused = [corpus.filter(pl.col("reason").is_not_null()), conflicting]
    refused.append(unique.filter(pl.col("reason").is_not_null()))
    quarantine = pl.concat([*(frame.select(LEFT_OUT) for frame in refused), *left_out]).sort("file", "row")
    counts = {
        "documents": corpus.height + sum(frame.height for frame in left_out),
        "duplicates": documents - unique.height - conflicting.height,
        "quarantined": quarantine.height,
    }
    quarantine_changed = not _same_rows(quarantine, refused_before)
    wanted = unique.filter(pl.col("reason").is_null())
    del unique
    judged = _judged(wanted, before, kept, payload_differs=payload_differs)
    del wanted
    return _described(judged, quarantine, copied, counts, quarantine_changed=quarantine_changed)


def _described(
    judged: pl.DataFrame,
    quarantine: pl.DataFrame,
    copied: pl.DataFrame,
    counts: dict[str, int],
    *,
    quarantine_changed: bool,
) -> RangeDiff:
    """Builds the difference from every id with its status."""
    statuses: dict[str, int] = dict(judged["status"].value_counts().iter_rows())
    # A changed document gets new rows and its old ones are deleted; an unchanged or kept one needs nothing.
    needed = (Status.NEW, Status.CHANGED, Status.PAYLOAD_CHANGED, Status.DELETED)
    new, changed, payload_changed, deleted = (judged.filter(pl.col("status") == status) for status in needed)
    arrived = pl.concat([new, changed])
    return RangeDiff(
        rows=_rows_by_file(arrived),
        payload_rows=_rows_by_file(payload_changed),
        deleted=deleted[ID].to_arrow().cast(pa.string()),
        changed=changed[ID].to_arrow().cast(pa.string()),
        payload_changed=payload_changed[ID].to_arrow().cast(pa.string()),
        quarantine=quarantine.to_arrow(),
        quarantine_changed=quarantine_changed,
        # Equal texts may lie in different ranges: "equal_texts" joins them over all ranges.
        arrivals=hash_prefixes(arrived[CONTENT_HASH].to_arrow()),
        departures=deleted.select(pl.col(f"{CONTENT_HASH}_before").alias(CONTENT_HASH), ID).to_arrow(),
        copied=copied.to_arrow().cast(COPIED_SCHEMA),
        counts={
            **counts,
            **{str(status): statuses.get(status, 0) for status in Status},
            "text_bytes": int(arrived["text_bytes"].sum()),
        },
    )


def _kept(before: pl.DataFrame, corpus: pl.DataFrame, unreadable: Unreadable | None) -> pl.Series:
    """Published ids that no readable file has and an unreadable one may have: their rows stay published."""
    if unreadable is None:
        return pl.Series(ID, [], pl.String)
    # Joined with every row read, refused ones too: an id that a readable file has is not missing.
    missing = before.join(corpus, on=ID, how="anti")[ID]
    if unreadable.ids is None:
        return missing
    return missing.filter(missing.is_in(pl.Series(pl.from_arrow(unreadable.ids)).unique().implode()))


def _judged(usable: pl.DataFrame, before: pl.DataFrame, kept: pl.Series, *, payload_differs: bool) -> pl.DataFrame:
    """Every id of the corpus and of the epoch once, with its :class:`Status` and the hashes of both."""
    # A full join: "file" is null for ids of the epoch alone, "file_before" for ids of the corpus alone. Hashes are
    # never null on the side that has the id.
    both = usable.join(before.with_columns(file=pl.lit(0)), on=ID, how="full", coalesce=True, suffix="_before")
    same_text, same_payload = (pl.col(name) == pl.col(f"{name}_before") for name in (CONTENT_HASH, PAYLOAD_HASH))
    status = (
        pl.when(pl.col("file_before").is_null())
        .then(pl.lit(Status.NEW.value))
        .when(pl.col("file").is_null() & pl.col(ID).is_in(kept.implode()))
        .then(pl.lit(Status.KEPT.value))
        .when(pl.col("file").is_null())
        .then(pl.lit(Status.DELETED.value))
        .when(~same_text)
        .then(pl.lit(Status.CHANGED.value))
        .when(~same_payload | payload_differs)
        .then(pl.lit(Status.PAYLOAD_CHANGED.value))
        .otherwise(pl.lit(Status.UNCHANGED.value))
    )
    return both.with_columns(status=status)


def hash_prefixes(hashes: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The first eight bytes of every content hash, uint64: half of a hash tells nearly all texts apart."""
    whole = hashes.combine_chunks() if isinstance(hashes, pa.ChunkedArray) else hashes
    stored = np.frombuffer(whole.cast(CONTENT_HASH_TYPE).buffers()[1] or b"", np.uint64)
    return stored[2 * whole.offset : 2 * (whole.offset + len(whole)) : 2].copy()


def in_range(frame: pl.DataFrame, low: str | None, high: str | None) -> pl.DataFrame:
    """Rows whose id lies in the range; without a lower bound null ids too."""
    inside = pl.col(ID).is_null() if low is None else pl.lit(value=False)
    above = pl.lit(value=True) if low is None else pl.col(ID) >= low
    below = pl.lit(value=True) if high is None else pl.col(ID) < high
    return frame.filter(inside | (pl.col(ID).is_not_null() & above & below))


def _sorted_out(doubled: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Sorts out ids that occur several times.

    Returns:
        One row of each id with a single text. The rows of ids with different texts. Of every id with a single text, how
        often it occurs beside the first time.
    """
    texts = pl.col(CONTENT_HASH).n_unique().over(ID)
    same = doubled.filter(texts == 1)
    # The least payload hash wins, in whatever file: renaming files changes nothing.
    first = same.sort(PAYLOAD_HASH, "file", "row").unique(ID, keep="first", maintain_order=True)
    reason = pl.lit(QuarantineReason.DUPLICATE_ID.value).alias("reason")
    copied = same.group_by(ID).agg(further=pl.len().cast(pl.Int64) - 1).sort(ID)
    return first, doubled.filter(texts > 1).with_columns(reason), copied


def _rows_by_file(documents: pl.DataFrame) -> dict[int, np.ndarray]:
    """Rows of the documents, by file."""
    return {int(str(file)): rows["row"].to_numpy() for (file,), rows in documents.group_by("file")}


def _same_rows(quarantine: pl.DataFrame, before: pl.DataFrame) -> bool:
    """Whether both quarantines hold the same ids, reasons and texts, in any order."""
    ours, theirs = (frame.select(QUARANTINE_COLUMNS).sort(QUARANTINE_COLUMNS) for frame in (quarantine, before))
    return ours.equals(theirs)


def marked(mask: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """Marks rows of a file.

    Args:
        mask: Packed bits (``numpy.packbits``) of the rows marked so far, uint8, shape (bytes,); ``None`` for none.
        rows: Row numbers, int64.

    Returns:
        Packed bits of both.
    """
    bits = np.zeros(int(rows.max()) + 1, bool)
    bits[rows] = True
    packed = np.packbits(bits)
    before = np.zeros(0, np.uint8) if mask is None else mask
    longer, shorter = (packed, before) if len(packed) > len(before) else (before, packed)
    longer[: len(shorter)] |= shorter
    return longer


def marked_rows(mask: np.ndarray) -> np.ndarray:
    """Numbers of the rows that a mask of :func:`marked` marks, int64, ascending."""
    return np.flatnonzero(np.unpackbits(mask))
