"""Compares corpus digests with the published index: new, changed, deleted, duplicate, unusable. Pure polars."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import polars as pl
import pyarrow as pa

from indexer.reasons import QuarantineReason
from indexer.schema import CONTENT_HASH, CONTENT_HASH_TYPE, ID, PAYLOAD_HASH

RANGE_ROWS = 1_000_000
"""Corpus rows compared at once: caps the memory of a comparison at any size of corpus."""

FOUND_BY_WORKERS = frozenset(
    {QuarantineReason.NO_TOKENS, QuarantineReason.TOO_LONG, QuarantineReason.BAD_VECTOR, QuarantineReason.POISON}
)
"""Reasons that only tokenizer or engine can find. They hold as long as the text does not change."""

PUBLISHED_COLUMNS = (ID, CONTENT_HASH, PAYLOAD_HASH)

QUARANTINE_COLUMNS = (ID, "reason", CONTENT_HASH)

LEFT_OUT = (ID, "file", "row", "reason", CONTENT_HASH, PAYLOAD_HASH)
"""Columns of a comparison's quarantined rows."""


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
        masks: Rows of new and changed documents, as packed bits (``numpy.packbits``) for each file by its place in the
            list.
        payload_masks: Rows of the documents of which only the payload changed, likewise.
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

    masks: dict[int, bytes]
    payload_masks: dict[int, bytes]
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
    digests: Sequence[pa.Table],
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
        digests: Digest of every file, :data:`indexer.schema.DIGEST_SCHEMA`; rows outside the range are ignored.
        published: Columns ``id``, ``content_hash``, ``payload_hash`` of the published documents.
        quarantined: Columns ``id``, ``reason``, ``content_hash`` of the published quarantine.
        low: Least id of the range; with ``None`` it also holds the null ids.
        high: Id above the last one of the range, or ``None``.
        payload_differs: Whether the payload's columns differ from the published ones, and with them every payload.
        unreadable: Files without a digest, by default none.

    Returns:
        The difference.
    """
    corpus = in_range(pl.concat([rows_of(digest, at) for at, digest in enumerate(digests)]), low, high)
    before = in_range(pl.DataFrame(pl.from_arrow(published)), low, high)
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
    usable = corpus.filter(pl.col("reason").is_null())
    copied, documents = _copied(usable), usable.height
    unique, conflicting = _without_duplicates(usable)
    # Frames of a million rows are let go as soon as the next one is made: a task's peak is their sum.
    del usable
    # Join the published quarantine by id and text: a text that workers refused stays refused without another try.
    remembered = refused_before.filter(pl.col("reason").is_in(FOUND_BY_WORKERS)).unique([ID, CONTENT_HASH])
    unique = unique.drop("reason").join(remembered, on=[ID, CONTENT_HASH], how="left")

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
    by_status = {status: judged.filter(pl.col("status") == status) for status in Status}
    new, changed, deleted = (by_status[status] for status in (Status.NEW, Status.CHANGED, Status.DELETED))
    # A changed document gets new rows and its old ones are deleted; an unchanged or kept one needs nothing.
    arrived, payload_changed = pl.concat([new, changed]), by_status[Status.PAYLOAD_CHANGED]
    return RangeDiff(
        masks=_masks(arrived),
        payload_masks=_masks(payload_changed),
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
            **{str(status): rows.height for status, rows in by_status.items()},
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


def _without_duplicates(usable: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One row per id, and separately the rows of ids that occur with different texts.

    Among copies with one text the least payload hash wins, in whatever file: renaming files changes nothing.
    """
    doubled = usable.filter(pl.col(ID).is_duplicated())
    texts = pl.col(CONTENT_HASH).n_unique().over(ID)
    kept = doubled.filter(texts == 1).sort(PAYLOAD_HASH, "file", "row").unique(ID, keep="first", maintain_order=True)
    reason = pl.lit(QuarantineReason.DUPLICATE_ID.value).alias("reason")
    return pl.concat([usable.filter(pl.col(ID).is_unique()), kept]), doubled.filter(texts > 1).with_columns(reason)


def _copied(usable: pl.DataFrame) -> pl.DataFrame:
    """Ids that occur several times with one text, and how often beside the first time."""
    by_id = usable.filter(pl.col(ID).is_duplicated()).group_by(ID)
    found = by_id.agg(pl.col(CONTENT_HASH).n_unique().alias("texts"), further=pl.len().cast(pl.Int64) - 1)
    return found.filter(pl.col("texts") == 1).select(COPIED_SCHEMA.names).sort(ID)


def _masks(embed: pl.DataFrame) -> dict[int, bytes]:
    """Packed bits of the rows to embed, by file."""
    masks = {}
    for (file,), rows in embed.group_by("file"):
        numbers = rows["row"].to_numpy()
        mask = np.zeros(int(numbers.max()) + 1, bool)
        mask[numbers] = True
        masks[int(str(file))] = np.packbits(mask).tobytes()
    return masks


def _same_rows(quarantine: pl.DataFrame, before: pl.DataFrame) -> bool:
    """Whether both quarantines hold the same ids, reasons and texts, in any order."""
    ours, theirs = (frame.select(QUARANTINE_COLUMNS).sort(QUARANTINE_COLUMNS) for frame in (quarantine, before))
    return ours.equals(theirs)


def merge_masks(masks: Sequence[bytes]) -> np.ndarray:
    """Rows that any of the masks marks.

    Args:
        masks: Packed bits of one file from several ranges.

    Returns:
        int64 row numbers, ascending.
    """
    merged = np.zeros(max(map(len, masks)), np.uint8)
    for mask in masks:
        merged[: len(mask)] |= np.frombuffer(mask, np.uint8)
    return np.flatnonzero(np.unpackbits(merged))
