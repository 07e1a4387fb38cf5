"""Filters by values of every payload type: the same rows as polars finds, with an index and without."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import lance
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from indexer.errors import SettingsError
from indexer.storage import filters, scalar_indices, where

ROWS = 400

CONDITIONS = 200

EPOCH = datetime(1970, 1, 1)

Draw = Callable[[random.Random], Any]


def moment(drawn: random.Random) -> datetime:
    return EPOCH + timedelta(seconds=drawn.randrange(-(10**8), 2 * 10**9, 40_000_000))


COLUMNS: dict[str, tuple[pa.DataType, Draw]] = {
    "word": (
        pa.string(),
        lambda drawn: drawn.choice(["", "a", "b'c", 'd"e', "f`g", "ü", "東京", "null", "\\", "%_", "a;b"]),
    ),
    "many": (pa.string(), lambda drawn: f"value {drawn.randrange(10**6)}"),
    "flag": (pa.bool_(), lambda drawn: drawn.random() < 0.5),
    "tiny": (pa.int8(), lambda drawn: drawn.choice([-128, -1, 0, 1, 5, 127])),
    "year": (pa.int16(), lambda drawn: drawn.randrange(1990, 2030)),
    "count": (pa.uint32(), lambda drawn: drawn.choice([0, 1, 7, 2**32 - 1])),
    "big": (pa.int64(), lambda drawn: drawn.choice([-(2**63), -1, 0, 3, 2**63 - 1])),
    "huge": (pa.uint64(), lambda drawn: drawn.choice([0, 1, 2**63, 2**64 - 1])),
    "half": (pa.float16(), lambda drawn: np.float16(drawn.choice([0.5, -1.25, 2.0]))),
    "share": (pa.float32(), lambda drawn: drawn.choice([0.1, 0.0, -0.0, 1e30, float("inf"), float("nan"), -2.5])),
    "price": (pa.float64(), lambda drawn: drawn.choice([0.1, 0.0, -0.0, 1e-300, float("-inf"), float("nan"), 19.99])),
    "cost": (pa.decimal128(12, 2), lambda drawn: Decimal(drawn.randrange(-500, 500)) / 100),
    "exact": (pa.decimal128(38, 10), lambda drawn: Decimal(drawn.randrange(10**12)) / 10**4),
    "day": (pa.date32(), lambda drawn: moment(drawn).date()),
    "day64": (pa.date64(), lambda drawn: moment(drawn).date()),
    "at": (pa.timestamp("us"), moment),
    "second": (pa.timestamp("s"), moment),
    "utc": (pa.timestamp("ms", "UTC"), lambda drawn: moment(drawn).replace(tzinfo=UTC)),
    "berlin": (pa.timestamp("ns", "Europe/Berlin"), lambda drawn: moment(drawn).replace(tzinfo=UTC)),
    "raw": (pa.binary(), lambda drawn: drawn.choice([b"", b"a", b"\x00\xff", b"'"])),
    "fixed": (pa.binary(2), lambda drawn: drawn.choice([b"ab", b"\x00\xff"])),
    "tags": (pa.list_(pa.string()), lambda drawn: drawn.sample(["a", "b'c", "東京", ""], drawn.randrange(4))),
    "numbers": (pa.list_(pa.int32()), lambda drawn: drawn.sample([-1, 0, 7, 9], drawn.randrange(4))),
}
"""Type of every column, and how a value is drawn. A tenth of the values is null."""


INDEXED = [name for name, (type_, _) in COLUMNS.items() if scalar_indices.can_index(type_)]


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    drawn = random.Random(0)
    columns = {
        name: pa.array([None if drawn.random() < 0.1 else draw(drawn) for _ in range(ROWS)], type_)
        for name, (type_, draw) in COLUMNS.items()
    }
    return pa.table({"row": pa.array(range(ROWS)), **columns})


@pytest.fixture(scope="module")
def frame(rows: pa.Table) -> pl.DataFrame:
    whole = rows.set_column(rows.schema.get_field_index("half"), "half", rows["half"].cast(pa.float32()))
    return pl.DataFrame(pl.from_arrow(whole))


@pytest.fixture(scope="module")
def plain(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> lance.LanceDataset:
    return lance.write_dataset(rows, str(tmp_path_factory.mktemp("plain") / "t.lance"), max_rows_per_file=ROWS // 4)


@pytest.fixture(scope="module")
def indexed(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> lance.LanceDataset:
    """Half of the rows is indexed at first, then some are deleted and the others folded in, as nights do."""
    path = str(tmp_path_factory.mktemp("indexed") / "t.lance")
    gone = rows.slice(0, 10).set_column(0, "row", pa.array([-1] * 10))
    dataset = lance.write_dataset(pa.concat_tables([gone, rows.slice(0, ROWS // 2)]), path)
    for name in INDEXED:
        scalar_indices.build(dataset, scalar_indices.spec(name))
    dataset.delete("row = -1")
    lance.write_dataset(rows.slice(ROWS // 2), path, mode="append")
    dataset = lance.dataset(path)
    dataset.optimize.optimize_indices()
    return lance.dataset(path)


def expected(frame: pl.DataFrame, name: str, wanted: Any) -> pl.Expr:
    """The same condition in polars."""
    column, literal = pl.col(name), lambda value: _literal(value, frame.schema[name])
    if isinstance(frame.schema[name], pl.List):
        items = wanted if isinstance(wanted, list) else [wanted]
        found = [column.list.contains(literal(item)).fill_null(value=False) for item in items]
        return column.is_null() if wanted is None else pl.any_horizontal(pl.lit(value=False), *found)
    if isinstance(wanted, tuple):
        low, high = wanted
        found = [column.is_not_null()]
        found += [] if low is None else [column >= literal(low)]
        found += [] if high is None else [column <= literal(high)]
        return pl.all_horizontal(found)
    values = wanted if isinstance(wanted, list) else [wanted]
    found = [
        column.is_null() if value is None else column.eq(literal(value)).fill_null(value=False) for value in values
    ]
    return pl.any_horizontal(found) if found else pl.lit(value=False)


def _literal(value: Any, dtype: pl.DataType) -> pl.Expr:
    zone = getattr(dtype, "time_zone", None)
    return pl.lit(value.astimezone(ZoneInfo(zone))).dt.cast_time_unit("ns") if zone else pl.lit(value)


def drawn_condition(drawn: random.Random, name: str) -> Any:
    """A value, some values, a range or no value."""
    type_, draw = COLUMNS[name]
    form = drawn.choice(["value", "values", "range", "range", "null"])
    if form == "null":
        return None
    if pa.types.is_list(type_):
        return drawn.sample(draw(random.Random(3)) or ["a"], 1) if name == "tags" else drawn.choice([7, [7, -1], []])
    if form == "value":
        return draw(drawn)
    if form == "values":
        return [draw(drawn) for _ in range(drawn.randrange(4))] + [None] * drawn.randrange(2)
    low, high = sorted((without_nan(draw(drawn)), without_nan(draw(drawn))))
    return drawn.choice([(low, high), (low, None), (None, high), (high, low), (None, None)])


def without_nan(value: Any) -> Any:
    return 0.1 if isinstance(value, float) and value != value else value  # noqa: PLR0124


def has_nan(wanted: Any) -> bool:
    return any(value != value for value in (wanted if isinstance(wanted, list | tuple) else [wanted]))  # noqa: PLR0124


def found(dataset: lance.LanceDataset, condition: str) -> list[int]:
    return sorted(dataset.scanner(columns=["row"], filter=condition).to_table()["row"].to_pylist())


@pytest.mark.heavy
def test_generated_filters_find_what_polars_finds(
    plain: lance.LanceDataset, indexed: lance.LanceDataset, frame: pl.DataFrame
) -> None:
    drawn = random.Random(1)
    tried = 0
    while tried < CONDITIONS:
        name = list(COLUMNS)[tried % len(COLUMNS)]
        wanted = {name: drawn_condition(drawn, name)}
        if drawn.random() < 0.3:
            wanted |= {other: drawn_condition(drawn, other) for other in drawn.sample(list(COLUMNS), 2)}
        if any(has_nan(value) for value in wanted.values()):
            continue
        tried += 1
        condition = filters.matches(wanted, plain.schema)
        assert condition is not None
        mask = pl.all_horizontal([expected(frame, name, value) for name, value in wanted.items()])
        rows = frame.filter(mask)["row"].sort().to_list()
        assert found(plain, condition) == rows, (wanted, condition)
        assert found(indexed, condition) == rows, (wanted, condition, "with indices")
        assert found(plain, f"NOT ({condition})") == found(indexed, f"NOT ({condition})"), (condition, "negated")


def test_every_type_uses_its_index(indexed: lance.LanceDataset) -> None:
    kinds = scalar_indices.built(indexed)
    assert kinds.keys() == set(INDEXED)
    assert {kinds["flag"], kinds["tags"], kinds["word"]} == {"BITMAP", "LABEL_LIST"}
    for name in INDEXED:
        type_, draw = COLUMNS[name]
        value = without_nan(draw(random.Random(5)))
        if pa.types.is_list(type_):
            value = "a" if name == "tags" else 7
        condition = filters.matches({name: value}, indexed.schema)
        assert "ScalarIndexQuery" in indexed.scanner(columns=["row"], filter=condition).explain_plan(), name


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        ({"tiny": 1000}, "false"),
        ({"tiny": (-1000, 3.5)}, "(`tiny` >= -128 AND `tiny` <= 3)"),
        ({"count": (-5, -1)}, "false"),
        ({"year": []}, "false"),
        ({"day": "2024-02-29"}, "`day` IN (date '2024-02-29')"),
        ({"at": date(2024, 2, 29)}, "`at` IN (arrow_cast(1709164800000000, 'Timestamp(Microsecond, None)'))"),
        (
            {"utc": "2024-02-29T01:00+01:00"},
            "`utc` IN (arrow_cast(1709164800000, 'Timestamp(Millisecond, Some(\"UTC\"))'))",
        ),
        ({"second": "2024-02-29T00:00:00.5"}, "false"),
        ({"cost": 1.5}, "`cost` IN (CAST('1.50' AS DECIMAL(12, 2)))"),
        ({"word": ["'; DROP", None]}, "(`word` IN ('''; DROP') OR `word` IS NULL)"),
        ({}, None),
    ],
)
def test_values_are_written_for_their_column(plain: lance.LanceDataset, wanted: Any, condition: str | None) -> None:
    written = filters.matches(wanted, plain.schema)
    assert written in {condition, f"({condition})"}
    if written:
        found(plain, written)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"year": "x"}, "the value for column 'year' does not fit its type int16"),
        ({"word": 1}, "'word' does not fit its type string"),
        ({"flag": 1}, "'flag' does not fit its type bool"),
        ({"day": "tomorrow"}, "'day' does not fit its type date32"),
        ({"price": float("nan")}, "'price' does not fit its type double"),
        ({"cost": Decimal("1.555")}, "'cost' does not fit"),
        ({"cost": "x"}, "'cost' does not fit"),
        ({"big": Decimal("sNaN")}, "'big' does not fit"),
        ({"big": float("inf")}, "'big' does not fit"),
        ({"price": 10**400}, "'price' does not fit"),
        ({"at": 5}, "'at' does not fit"),
        ({"at": "0000-01-01"}, "'at' does not fit"),
        ({"at": (None, np.datetime64("NaT"))}, "'at' does not fit"),
        ({"day": "10000-01-01"}, "'day' does not fit"),
        ({"raw": 10**12}, "'raw' does not fit"),
        ({"fixed": b"abc"}, "'fixed' does not fit"),
        ({"word": "\ud800"}, "'word' does not fit"),
        ({"tags": ("a", None)}, "'tags' does not fit its type list"),
        ({"year": (1, 2, 3)}, "'year' does not fit"),
        ({"nothing": 1}, "there is no column 'nothing'"),
    ],
)
def test_values_of_other_types_are_refused(plain: lance.LanceDataset, wanted: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        filters.matches(wanted, plain.schema)


def test_types_that_cannot_be_compared_have_no_index() -> None:
    refused = [pa.float16(), pa.time64("us"), pa.duration("s"), pa.decimal256(50, 2), pa.struct([("a", pa.int8())])]
    assert not any(scalar_indices.can_index(type_) for type_ in refused)
    assert set(COLUMNS) - set(INDEXED) == {"half"}


ZONES = [None, "UTC", "+02:00", "-07:30", "Europe/Berlin", "America/St_Johns", "Not/Known"]

Compared = tuple[str | None, Callable[[int], bool]]

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds of Arrow's units."""

INSTANTS = [(column, zone, unit) for column, (zone, unit) in enumerate(product(ZONES, UNITS))]

REPEATED = 1_729_990_800 * 10**9
"""Nanoseconds until clocks in Berlin go from three back to two."""


def nanoseconds(drawn: random.Random) -> int:
    """An instant within two hours of that moment, in steps of 20 minutes and a little more."""
    return REPEATED + drawn.randrange(-6, 7) * 1200 * 10**9 + drawn.choice([0, 0, 1, 1000, 10**6, 5 * 10**8, 123456789])


def text(instant: int, zone: ZoneInfo) -> str:
    """An instant as a clock of a zone shows it, with its offset."""
    shown = datetime.fromtimestamp(instant // 10**9, zone).isoformat()
    return f"{shown[:19]}.{instant % 10**9:09d}{shown[19:]}"


@pytest.fixture(scope="module")
def instants(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, lance.LanceDataset, lance.LanceDataset]:
    """Instants of every column in nanoseconds, a table of them, and one with scalar indices."""
    drawn, size = random.Random(0), 60
    exact = {str(at): [nanoseconds(drawn) // UNITS[unit] for _ in range(size)] for at, _, unit in INSTANTS}
    stored = {str(at): pa.array(exact[str(at)]).cast(pa.timestamp(unit, zone)) for at, zone, unit in INSTANTS}
    known = {str(at): [count * UNITS[unit] for count in exact[str(at)]] for at, _, unit in INSTANTS}
    table, root = pa.table({"row": range(size), **stored}), tmp_path_factory.mktemp("instants")
    plain, indexed = (lance.write_dataset(table, str(root / f"{name}.lance")) for name in ("plain", "indexed"))
    for name in stored:
        indexed.create_scalar_index(name, "BTREE")
    return pa.table(known), plain, indexed


def of_two_instants(at: int, first: int, last: int, texts: tuple[str, str], table: pa.Schema) -> Iterator[Compared]:
    """Conditions on a column, and which instants meet them."""
    name, (low, high) = str(at), texts
    yield filters.matches({name: low}, table), lambda row: row == first
    yield filters.matches({name: [low, high]}, table), lambda row: row in {first, last}
    yield filters.matches({name: (low, high)}, table), lambda row: first <= row <= last
    for condition, holds in (
        (f"`{at}` < '{low}'", lambda row: row < first),
        (f"'{low}' >= `{at}`", lambda row: first >= row),
        (f"`{at}` > '{low}' OR `{at}` = '{low}'", lambda row: row >= first),
        (f"`{at}` NOT IN ('{low}', '{high}')", lambda row: row not in {first, last}),
        (f"`{at}` BETWEEN '{low}' AND '{high}'", lambda row: first <= row <= last),
    ):
        yield where.condition(condition, table), holds


def test_instants_are_compared_as_python_compares_them(
    instants: tuple[pa.Table, lance.LanceDataset, lance.LanceDataset],
) -> None:
    known, plain, indexed = instants
    drawn = random.Random(2)
    for at in [column for column, *_ in INSTANTS] * 8:
        rows = known[str(at)].to_pylist()
        first, last = sorted(drawn.choice([nanoseconds(drawn), drawn.choice(rows)]) for _ in range(2))
        low, high = (text(value, ZoneInfo(drawn.choice(["UTC", "Europe/Berlin"]))) for value in (first, last))
        for condition, holds in of_two_instants(at, first, last, (low, high), plain.schema):
            expected = [place for place, row in enumerate(rows) if holds(row)]
            assert found(plain, str(condition)) == expected, (INSTANTS[at], condition)
            assert found(indexed, str(condition)) == expected, (INSTANTS[at], condition, "with an index")


def test_times_without_an_offset_are_the_columns_own() -> None:
    table = pa.schema([(str(at), pa.timestamp(unit, zone)) for at, zone, unit in INSTANTS])
    for at, zone, unit in INSTANTS[:-4]:
        offset = {"+02:00": 2, "-07:30": -7.5, "Europe/Berlin": 2, "America/St_Johns": -2.5}.get(str(zone), 0)
        moment = datetime(2024, 10, 27, 2, 30, tzinfo=timezone(timedelta(hours=offset)))
        written = filters.matches({str(at): moment}, table)
        assert written == filters.matches({str(at): "2024-10-27 02:30"}, table), (zone, unit)
    with pytest.raises(
        SettingsError, match=r"the time zone of column '27', .*Not/Known.* give times with their offset"
    ):
        filters.matches({"27": "2024-10-27"}, table)
    with pytest.raises(SettingsError, match=r"the time zone of column 27, .*Not/Known.* is unknown here"):
        where.condition("`27` < '2024-10-27'", table)


def test_the_ends_of_time_are_bounds_of_every_column(
    instants: tuple[pa.Table, lance.LanceDataset, lance.LanceDataset],
) -> None:
    """Nanoseconds of 64 bits end in 1677 and 2262."""
    _, plain, _ = instants
    for at, zone, unit in INSTANTS:
        for condition in (
            filters.matches({str(at): ("0001-01-01T00:00Z", datetime.max.replace(tzinfo=UTC))}, plain.schema),
            where.condition(f"`{at}` < '9999-12-31T00:00Z' AND `{at}` != '0001-01-01T00:00Z'", plain.schema),
        ):
            assert len(found(plain, str(condition))) == 60, (zone, unit)
        assert filters.matches({str(at): ("9999-12-31T00:00Z", None)}, plain.schema) in {
            filters.NOTHING,
            f"(`{at}` >= {filters.literal(253402214400 * 10**9 // UNITS[unit], plain.schema.field(str(at)).type)})",
        }
