"""What a row may take once its dictionaries are resolved, told by the headers of Parquet's dictionary pages."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

HEADER_BYTES = 64
"""More than a dictionary page's header takes, as far as the page's size."""

DICTIONARY_PAGE = 2
"""Type of a dictionary page (parquet.thrift, ``PageType``)."""

TYPE_FIELD, SIZE_FIELD = 0x15, 0x15
"""Headers of the first two fields of ``PageHeader``: the next field, an i32 (Thrift's compact protocol)."""


def largest_row(source: pa.NativeFile, group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> int:
    """Cap on the bytes that dictionary-encoded texts and bytes of one row take, 0 without such.

    A footer counts a dictionary once, and a value in it may stand in every row.

    Args:
        source: The file.
        group: Row group.
        columns: Columns that are read, all by default.

    Raises:
        pyarrow.ArrowInvalid: The footer is damaged.
    """
    chunks = (group.column(at) for at in range(group.num_columns))
    read = (chunk for chunk in chunks if columns is None or is_of(_path(chunk), columns))
    return sum(_dictionary_bytes(source, chunk) * -(-chunk.num_values // max(group.num_rows, 1)) for chunk in read)


def _path(chunk: pq.ColumnChunkMetaData) -> str:
    """Name of a chunk's leaf, which a footer has beside those of the schema."""
    try:
        return str(chunk.path_in_schema)
    except UnicodeDecodeError:
        raise pa.ArrowInvalid("a column chunk's name is not UTF-8") from None


def is_of(path: str, columns: Iterable[str]) -> bool:
    """Whether a leaf is a column's or of one of its parts."""
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def _dictionary_bytes(source: pa.NativeFile, chunk: pq.ColumnChunkMetaData) -> int:
    """Bytes of a column chunk's dictionary, not compressed; 0 if it has none, or one of numbers."""
    if chunk.physical_type != "BYTE_ARRAY" or not any("DICTIONARY" in name for name in chunk.encodings):
        return 0
    # Some writers do not name the dictionary page: it is the first page then.
    at = chunk.dictionary_page_offset or chunk.data_page_offset
    return min(_page_bytes(source.read_at(HEADER_BYTES, at)), chunk.total_uncompressed_size)


def _page_bytes(header: bytes) -> int:
    """Size of a dictionary page by its header; 0 for another page, or none."""
    if header[:1] != bytes([TYPE_FIELD]):
        return 0
    kind, at = _number(header, 1)
    if kind != DICTIONARY_PAGE or header[at : at + 1] != bytes([SIZE_FIELD]):
        return 0
    return _number(header, at + 1)[0]


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint, and the place after it."""
    value = shift = 0
    while at < len(content):
        value |= (content[at] & 0x7F) << shift
        shift += 7
        at += 1
        if content[at - 1] < 0x80:  # noqa: PLR2004  # the highest bit says that another byte follows
            break
    return (value >> 1) ^ -(value & 1), at
