"""Batches stay small where a footer does not tell how large rows are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.corpus import parquet
from indexer.corpus.formats import open_file
from indexer.corpus.listing import list_files
from indexer.corpus.pages import largest_row
from indexer.errors import BadFile

VALUE = 10_000

ROWS = 100


def repeated(count: int) -> pa.Array:
    """The same large value, which a file holds once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * VALUE]))


COLUMNS = {
    "column": repeated(ROWS),
    "list": pa.ListArray.from_arrays(pa.array(range(0, 2 * ROWS + 1, 2), pa.int32()), repeated(2 * ROWS)),
    "struct": pa.StructArray.from_arrays([pa.array(range(ROWS)), repeated(ROWS)], ["a", "b"]),
    "one_large_stretch": pa.array(["y" * VALUE if row < ROWS // 4 else "" for row in range(ROWS)]),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_batch_is_small_whatever_the_footer_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, version: str
) -> None:
    plain = name == "one_large_stretch"
    table = pa.table({"id": [str(row) for row in range(ROWS)], "p": COLUMNS[name]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression=codec, data_page_version=version, use_dictionary=not plain)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 5 * VALUE)
    monkeypatch.setattr(parquet, "DICTIONARY_BYTES", 20 * VALUE)
    (file,) = list_files(str(tmp_path), "corpus.uri")
    with open_file(str(tmp_path), file) as opened:
        assert isinstance(opened, parquet.ParquetRows)
        found = [batch.columns for batch in opened.batches(["id", "p"])]
        inner = opened._parquet
        decoded = parquet._batch_rows(inner, [0], ["id", "p"])
        assert largest_row(inner._opened, inner.metadata.row_group(0), ["id"]) < VALUE
    assert sum(batch.num_rows for batch in found) == ROWS
    assert max(batch.nbytes for batch in found) <= 5 * VALUE + 1000
    assert plain or decoded * VALUE * (2 if name == "list" else 1) <= 20 * VALUE
    values = [value for batch in found for value in batch["p"].cast(COLUMNS[name].type).to_pylist()]
    assert values == COLUMNS[name].to_pylist()


@pytest.mark.parametrize("place", [-1, -2])
def test_a_name_in_the_footer_that_is_not_utf8_makes_the_file_bad(tmp_path: Path, place: int) -> None:
    """A footer has the name of a column in the schema and in every column chunk."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "quantity": ["x", "x"]}), path, store_schema=False)
    parts = path.read_bytes().split(b"quantity")
    damaged = b"".join(
        part + (b"" if at == len(parts) - 1 else b"quantit\xff" if at == len(parts) - 1 + place else b"quantity")
        for at, part in enumerate(parts)
    )
    assert len(parts) > 2
    path.write_bytes(damaged)
    (file,) = list_files(str(tmp_path), "corpus.uri")
    with pytest.raises(BadFile), open_file(str(tmp_path), file) as opened:
        for _ in opened.batches(["id", "quantity"]):
            pass
