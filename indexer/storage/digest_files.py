"""Digest files: read by range of ids."""

import pyarrow.parquet as pq


def _overlaps(parquet: pq.ParquetFile, group: int, low: str | None, high: str | None) -> bool:
    """Whether a row group may hold an id of the range; groups without bounds, as those of null ids, always may."""
    statistics = parquet.metadata.row_group(group).column(parquet.schema_arrow.get_field_index("id")).statistics
    if statistics is None or not statistics.has_min_max or statistics.null_count:
        return True
    return (high is None or statistics.min < high) and (low is None or statistics.max >= low)


def _least(statistics: pq.Statistics | None) -> str | None:
    return statistics.min if statistics is not None and statistics.has_min_max else None
