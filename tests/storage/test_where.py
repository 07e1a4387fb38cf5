"""Conditions with decimals and dates as people write them, on a real table."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from indexer.errors import SettingsError
from indexer.storage import tables
from indexer.storage.where import condition

ROWS = 6


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> lance.LanceDataset:
    """Row n has the price n.50, the (n + 1)st of January 2024, and noon of that day."""
    days = [date(2024, 1, 1 + row) for row in range(ROWS)]
    noons = [datetime(2024, 1, 1 + row, 12) for row in range(ROWS)]
    columns = {
        "id": [str(row) for row in range(ROWS)],
        "price": pa.array([Decimal(f"{row}.50") for row in range(ROWS)], pa.decimal128(10, 2)),
        "day": pa.array(days),
        "at": pa.array(noons, pa.timestamp("us")),
        "zoned": pa.array(noons, pa.timestamp("us", "UTC")),
        "count": pa.array(range(ROWS), pa.int32()),
        "share": pa.array([row / 2 for row in range(ROWS)], pa.float32()),
        "word": ["x'y", "2024-01-03", "c", "price > 2.5", "; DROP", None],
    }
    return lance.write_dataset(pa.table(columns), str(tmp_path_factory.mktemp("where") / "t.lance"))


def found(table: lance.LanceDataset, where: str) -> str:
    """Ids of the rows, joined."""
    rows = table.scanner(columns=["id"], filter=condition(where, table.schema)).to_table()
    return "".join(sorted(rows["id"].to_pylist()))


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("price > 2.5", "345"),
        ("price = 2.50", "2"),
        ("price = '2.5'", "2"),
        ("price >= 2.505", "345"),
        ("2.5 < price", "345"),
        ("price > -2.5", "012345"),
        ("price BETWEEN 1.5 AND 3", "12"),
        ("price NOT BETWEEN 1.5 AND 3.75 AND count < 5", "04"),
        ("price IN (2.5, 3.5, 9)", "23"),
        ("price < 1e0", "0"),
        ("price > 2.5 OR NOT (price <= 4.25 AND word = 'c')", "01345"),
        ("`price` != 2.5", "01345"),
        ("price > 2", "2345"),
        ("price > 123456789012345678901234567890.5", ""),
        ("day >= '2024-01-03'", "2345"),
        ("day >= 2024-01-03", "2345"),
        ("day = date '2024-01-03'", "2"),
        ("day BETWEEN '2024-01-02' AND 2024-01-03", "12"),
        ("day NOT IN ('2024-01-02', '2024-01-03')", "0345"),
        ("at > '2024-01-03'", "2345"),
        ("at > '2024-01-03 12:00'", "345"),
        ("at <= '2024-01-03T12:00:00'", "012"),
        ("zoned >= '2024-01-03T12:00:00Z'", "2345"),
        ("zoned >= '2024-01-03T15:00:00+02:00'", "345"),
        ("count > 2.5", "345"),
        ("count > 2", "345"),
        ("share > 0.75", "2345"),
        ("price IN (CAST('2.5' AS DECIMAL(3, 1)), 3.5)", "23"),
        ("day IN (date '2024-01-02', '2024-01-04')", "13"),
        ("word = 'x''y'", "0"),
        ("word = '2024-01-03'", "1"),
        ("word = 'price > 2.5'", "3"),
        ("word = '; DROP' AND price > 1.0", "4"),
        ("word IS NULL", "5"),
    ],
)
def test_literals_have_the_type_of_their_column(table: lance.LanceDataset, where: str, ids: str) -> None:
    assert found(table, where) == ids


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("day > '01.03.2024'", "column day is of type date32[day], and '01.03.2024' is none: write 2024-03-01"),
        ("at < '2024-13-45'", "column at is of type timestamp[us], and '2024-13-45' is none"),
        ("day = 'tomorrow'", "'tomorrow' is none"),
        ("word = 'c'; DROP TABLE t", "the filter is not one condition"),
        ("word = 'c') OR (true", "the filter is not one condition"),
    ],
)
def test_what_is_no_date_or_no_single_condition_is_refused(table: lance.LanceDataset, where: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        condition(where, table.schema)
    assert message in str(refused.value)


@pytest.mark.parametrize("where", ["nope = 1", "count = 'x'", "word = 'b", "price >", "vector ="])
def test_refusals_name_no_place_in_a_library(table: lance.LanceDataset, where: str) -> None:
    uri, name = str(Path(table.uri).parent), "t"
    with pytest.raises(SettingsError, match="the condition is refused") as refused:
        tables.check_condition(uri, name, table.version, where)
    assert ".rs" not in str(refused.value)
    assert "cargo" not in str(refused.value)
