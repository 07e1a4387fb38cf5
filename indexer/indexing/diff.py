"""Corpus digests against the published index: what is new, changed, gone, doubled or unusable. Pure polars."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from indexer.reasons import QuarantineReason
from indexer.schema import CONTENT_HASH, ID, PAYLOAD_HASH

RANGE_ROWS = 1_000_000
"""Corpus rows compared at once: bounds the memory of a comparison whatever the corpus has."""

FOUND_BY_WORKERS = frozenset(
    {QuarantineReason.NO_TOKENS, QuarantineReason.TOO_LONG, QuarantineReason.BAD_VECTOR, QuarantineReason.POISON}
)
"""Fates that only the model's side can tell, and that stay while the text stays."""

PUBLISHED_COLUMNS = (ID, CONTENT_HASH, PAYLOAD_HASH)

QUARANTINE_COLUMNS = (ID, "reason", CONTENT_HASH)


@dataclass(frozen=True)
class RangeDiff:
    """What one range of ids asks for.

    Attributes:
        masks: For files by their place in the list, packed bits (``numpy.packbits``): the rows to embed.
        dropped: Published ids whose rows go, because the document is gone, changed or no longer usable.
        quarantine: Columns id, file (place in the list), row, reason, content_hash, payload_hash.
        quarantine_changed: Whether the quarantine differs from the published one.
        arrivals: Columns content_hash, file, row of the new documents; empty where nothing is published.
        departures: Columns content_hash, id of the documents that are gone.
        counts: documents, new, changed, unchanged, deleted, duplicates, quarantined, text_bytes (to embed).
    """

    masks: dict[int, bytes]
    dropped: pa.Array
    quarantine: pa.Table
    quarantine_changed: bool
    arrivals: pa.Table
    departures: pa.Table
    counts: dict[str, int]


def compare(
    digests: Sequence[pa.Table],
    published: pa.Table,
    quarantined: pa.Table,
    low: str | None,
    high: str | None,
    *,
    is_update: bool = True,
) -> RangeDiff:
    """Compares a range of ids.

    Args:
        digests: Digest of every file, :data:`indexer.schema.DIGEST_SCHEMA`; rows outside the range are ignored.
        published: Columns ``id``, ``content_hash``, ``payload_hash`` of the published documents.
        quarantined: Columns ``id``, ``reason``, ``content_hash`` of the published quarantine.
        low: Least id of the range; with ``None`` it also holds the null ids.
        high: Id above the last one of the range, or ``None``.
        is_update: Whether anything is published: only then can a new document be one that moved.

    Returns:
        The difference.
    """
    frames = [pl.DataFrame(pl.from_arrow(digest)).with_columns(file=pl.lit(at)) for at, digest in enumerate(digests)]
    corpus = _in_range(pl.concat(frames), low, high)
    before = _in_range(pl.DataFrame(pl.from_arrow(published)), low, high)
    refused_before = _in_range(pl.DataFrame(pl.from_arrow(quarantined)), low, high)

    usable = corpus.filter(pl.col("reason").is_null())
    unique, conflicting = _without_duplicates(usable)
    remembered = refused_before.filter(pl.col("reason").is_in(FOUND_BY_WORKERS)).unique([ID, CONTENT_HASH])
    unique = unique.drop("reason").join(remembered, on=[ID, CONTENT_HASH], how="left")
    usable_now = unique.filter(pl.col("reason").is_null())
    matched = usable_now.join(before, on=ID, how="left", suffix="_before")
    is_new = pl.col(f"{CONTENT_HASH}_before").is_null()
    is_same = (pl.col(CONTENT_HASH) == pl.col(f"{CONTENT_HASH}_before")) & (
        pl.col(PAYLOAD_HASH) == pl.col(f"{PAYLOAD_HASH}_before")
    )
    new, changed = matched.filter(is_new), matched.filter(~is_new & ~is_same)
    deleted = before.join(usable_now, on=ID, how="anti")

    bad = [corpus.filter(pl.col("reason").is_not_null()), conflicting, unique.filter(pl.col("reason").is_not_null())]
    columns = [ID, "file", "row", "reason", CONTENT_HASH, PAYLOAD_HASH]
    quarantine = pl.concat([frame.select(columns) for frame in bad]).sort("file", "row")
    embed = pl.concat([frame.select("file", "row", "text_bytes") for frame in (new, changed)])
    return RangeDiff(
        masks=_masks(embed),
        dropped=pl.concat([deleted[ID], changed[ID]]).to_arrow().cast(pa.string()),
        quarantine=quarantine.to_arrow(),
        quarantine_changed=not _same_rows(quarantine, refused_before),
        arrivals=new.select(CONTENT_HASH, "file", "row").head(new.height if is_update else 0).to_arrow(),
        departures=deleted.select(CONTENT_HASH, ID).to_arrow(),
        counts={
            "documents": corpus.height,
            "new": new.height,
            "changed": changed.height,
            "unchanged": matched.height - new.height - changed.height,
            "deleted": deleted.height,
            "duplicates": usable.height - unique.height - conflicting.height,
            "quarantined": quarantine.height,
            "text_bytes": int(embed["text_bytes"].sum()),
        },
    )


def moves(arrivals: pa.Table, departures: pa.Table) -> pa.Table:
    """New documents whose content is that of one that is gone: their vectors are there already.

    Args:
        arrivals: Of all ranges, as in :class:`RangeDiff`.
        departures: Likewise.

    Returns:
        Columns file, row, id (the old one), sorted by file and row.
    """
    gone = pl.DataFrame(pl.from_arrow(departures)).sort(ID).unique(CONTENT_HASH, keep="first")
    found = pl.DataFrame(pl.from_arrow(arrivals)).join(gone, on=CONTENT_HASH)
    return found.select("file", "row", ID).sort("file", "row").to_arrow()


def _in_range(frame: pl.DataFrame, low: str | None, high: str | None) -> pl.DataFrame:
    inside = pl.col(ID).is_null() if low is None else pl.lit(value=False)
    above = pl.lit(value=True) if low is None else pl.col(ID) >= low
    below = pl.lit(value=True) if high is None else pl.col(ID) < high
    return frame.filter(inside | (pl.col(ID).is_not_null() & above & below))


def _without_duplicates(usable: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One row per id, and the rows of ids that occur with different texts.

    Of copies with one text the least payload is kept, whatever file it stands in: renaming files changes nothing.
    """
    doubled = usable.filter(pl.col(ID).is_duplicated())
    texts = pl.col(CONTENT_HASH).n_unique().over(ID)
    kept = doubled.filter(texts == 1).sort(PAYLOAD_HASH, "file", "row").unique(ID, keep="first", maintain_order=True)
    reason = pl.lit(QuarantineReason.DUPLICATE_ID.value).alias("reason")
    return pl.concat([usable.filter(pl.col(ID).is_unique()), kept]), doubled.filter(texts > 1).with_columns(reason)


def _masks(embed: pl.DataFrame) -> dict[int, bytes]:
    masks = {}
    for (file,), rows in embed.group_by("file"):
        numbers = rows["row"].to_numpy()
        mask = np.zeros(int(numbers.max()) + 1, bool)
        mask[numbers] = True
        masks[int(str(file))] = np.packbits(mask).tobytes()
    return masks


def _same_rows(quarantine: pl.DataFrame, before: pl.DataFrame) -> bool:
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
