"""Payload columns that cannot be stored or searched are found before anything is embedded."""

import pyarrow as pa
import pytest

from indexer.storage.trial import first_refused

TYPES = [
    pa.map_(pa.string(), pa.string()),
    pa.list_(pa.map_(pa.string(), pa.int32())),
    pa.list_(pa.string(), 2),
    pa.struct([("a", pa.list_(pa.list_(pa.string(), 1)))]),
    pa.list_(pa.struct([("a", pa.int32())]), 2),
    pa.timestamp("us", "Mars/Phobos"),
]

NAMES = ["meta.lang", "a`b", "", "_distance", "_rowid", "_rowaddr", "_score", "_relevance_score"]


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_types_that_are_refused(type_: pa.DataType) -> None:
    found = first_refused(pa.schema([("fine", pa.string()), ("odd", type_)]))
    assert found is not None
    assert found[0].name == "odd"
    assert ".rs" not in found[1]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_refused(name: str) -> None:
    found = first_refused(pa.schema([("fine", pa.string()), (name, pa.string())]))
    assert found is not None
    assert found[0].name == name
    assert ".rs" not in found[1]


def test_what_is_stored() -> None:
    types = {
        "structs": pa.list_(pa.struct([("a", pa.list_(pa.string()))])),
        "fixed": pa.list_(pa.list_(pa.float32(), 2), 3),
        "decimal": pa.decimal256(50, 3),
        "time": pa.time64("ns"),
        "zone": pa.timestamp("us", "Europe/Berlin"),
        "duration": pa.duration("ms"),
        "half": pa.float16(),
        "bytes": pa.binary(5),
        "Odd name": pa.uint64(),
    }
    assert first_refused(pa.schema(types.items())) is None
