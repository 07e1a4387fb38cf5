"""Cuts ids into ranges with about equally many rows, each of which one process can compare."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from indexer.storage.digest_files import DigestFiles

RANGE_ROWS = 1_000_000
"""Rows of a range: caps the memory of a comparison at any size of corpus."""

GROUPS_PER_RANGE = 16
"""Row groups that are sampled for each range."""

ROWS_PER_SAMPLE = 256
"""Rows of a row group for each id that is sampled."""


@dataclass(frozen=True)
class IdRanges:
    """Ranges that together hold all ids, whether a digest has them or not.

    Attributes:
        rows: Rows of the digests.
        bounds: Of each range the least id and the id above its last one, ``None`` for no bound.
    """

    rows: int
    bounds: list[tuple[str | None, str | None]]


def cut(digests: DigestFiles, names: Collection[str]) -> IdRanges:
    """Cuts the ids of some digests.

    Args:
        digests: All digests.
        names: Names of those whose rows the ranges share out.
    """
    groups = [(least or "", name, at, held) for name in names for at, (least, held) in enumerate(digests.groups(name))]
    rows = sum(held for *_, held in groups)
    ranges = -(-rows // RANGE_ROWS)
    cuts = _cuts(_sampled(digests, groups, ranges), ranges) if ranges > 1 else []
    return IdRanges(rows, list(pairwise([None, *cuts, None])))


def _sampled(digests: DigestFiles, groups: list[tuple[str, str, int, int]], ranges: int) -> pa.Table:
    """Ids of every so many row groups in the order of their least ids, with the rows that each stands for."""
    # The least ids alone would not do. Where every file covers all ids, as with hashes, groups of all files begin at
    # the same few places: with 100 files of seven groups, ranges had between none and 1.6 times their rows.
    step = max(1, len(groups) // (GROUPS_PER_RANGE * ranges))
    chosen = defaultdict(list)
    for _, name, at, _ in sorted(groups)[step // 2 :: step]:
        chosen[name].append(at)
    return pa.concat_tables([digests.sample(name, places, ROWS_PER_SAMPLE) for name, places in chosen.items()])


def _cuts(sampled: pa.Table, ranges: int) -> list[str]:
    """Ids that cut the sample into parts that stand for about as many rows each."""
    by_id = sampled.sort_by("id")
    upto = np.cumsum(by_id["rows"].to_numpy())
    if not upto.size:  # all ids are null
        return []
    places = np.searchsorted(upto, upto[-1] * np.arange(1, ranges) / ranges)
    return list(dict.fromkeys(by_id["id"].take(pa.array(places)).to_pylist()))
