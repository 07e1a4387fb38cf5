"""Rows of all Arrow types at every depth, with hostile values: indexed with equal values, or quarantined by name.

What is hostile is known where a value is made: exactly these rows must be in the quarantine. Part of ``make fuzz``.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from indexer.search.published import open_published
from tests.support import fakes

ROWS = 1000
"""Rows of one corpus."""

COLUMNS = 4
"""Payload columns of one corpus."""

DEPTH = 3

HOSTILE = 0.002
"""Share of hostile values."""

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

DAY_MS = 86_400_000

ZONES = (
    None,
    "UTC",
    "Etc/UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Etc/GMT+12",
    "+05:30",
    "-12:00",
)

Made = tuple[pa.Array, np.ndarray]
"""A column and which of its rows hold a hostile value."""


class Maker:
    """Makes columns from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._views = True

    def column(self, rows: int, depth: int = DEPTH) -> Made:
        """A column of a random type, some values null."""
        wrappers = [self._list, self._large_list, self._list_view, self._struct, self._fixed]
        if depth and self._random.random() < 0.6:
            return self._one_of(wrappers)(rows, depth - 1)
        # Arrow cannot write views inside other types.
        self._views = depth == DEPTH
        return self._leaf(rows)

    def _one_of(self, choices: Sequence[Any]) -> Any:
        return choices[self._random.integers(len(choices))]

    def _leaf(self, rows: int) -> Made:
        return self._one_of([self._number, self._text, self._binary, self._temporal, self._other])(rows)

    def _valid(self, rows: int) -> np.ndarray:
        return self._random.random(rows) >= 0.1

    def _marked(self, rows: int) -> np.ndarray:
        return self._random.random(rows) < HOSTILE

    def _number(self, rows: int) -> Made:
        kind = self._one_of(["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
        if kind == "?":
            values = self._random.random(rows) < 0.5
        else:
            # All bit patterns: NaN of every kind, infinities and denormals among them.
            values = np.frombuffer(self._random.bytes(rows * np.dtype(kind).itemsize), kind)
        return pa.array(values, mask=~self._valid(rows)), np.zeros(rows, bool)

    def _text(self, rows: int) -> Made:
        type_ = self._one_of([pa.string(), pa.large_string(), None, *([pa.string_view()] if self._views else [])])
        bad = self._marked(rows)
        good = ["", "a", "\x00", "\u202e", "e\u0301", "\U0001f600", "it's", "word " * 9]
        texts = [b"Jos\xe9" if wrong else self._one_of(good).encode() for wrong in bad]
        valid = self._valid(rows) | bad
        if type_ is None:
            entries = pa.array([*(text.encode() for text in good), b"Jos\xe9"]).view(pa.string())
            places = [len(good) if wrong else int(self._random.integers(len(good))) for wrong in bad]
            index = self._one_of([pa.int8(), pa.int32()])
            return pa.DictionaryArray.from_arrays(pa.array(places, index, mask=~valid), entries), bad & valid
        plain = pa.array(texts, pa.binary(), mask=~valid).view(pa.string())
        if types.is_string_view(type_):
            return pa.array(texts, pa.binary_view(), mask=~valid).view(type_), bad & valid
        return plain.cast(type_), bad & valid

    def _binary(self, rows: int) -> Made:
        views = [pa.binary_view()] if self._views else []
        type_ = self._one_of([pa.binary(), pa.large_binary(), pa.binary(5), *views])
        values = [self._random.bytes(5) for _ in range(rows)]
        return pa.array(values, type_, mask=~self._valid(rows)), np.zeros(rows, bool)

    def _temporal(self, rows: int) -> Made:
        unit = self._one_of([*UNITS])
        zone = self._one_of(ZONES)
        fine, coarse = {"s": "us", "ms": "ns"}.get(unit, unit), {"us": "s", "ns": "ms"}.get(unit, unit)
        factor = UNITS[unit]
        made = [
            (pa.date32(), 700_000, 3_000_000),
            (pa.date64(), 700_000 * DAY_MS, 3_000_000 * DAY_MS),
            (pa.timestamp(unit, zone), 9 * 10**9 * factor, None if unit == "ns" else 3 * 10**11 * factor),
            (pa.time32(coarse), 86_399 * UNITS[coarse], 90_000 * UNITS[coarse]),
            (pa.time64(fine), 86_399 * UNITS[fine], 2**60),
            (pa.duration(unit), 10**8 * factor, 2**62 if factor <= 1000 else None),
        ]
        type_, most, hostile = self._one_of(made)
        least = 0 if types.is_time(type_) else -most
        values = self._random.integers(least, most, rows)
        bad = self._marked(rows) if hostile is not None else np.zeros(rows, bool)
        values[bad] = hostile or 0
        values -= values % DAY_MS if types.is_date64(type_) else 0
        valid = self._valid(rows) | bad
        width = pa.int32() if type_.bit_width == 32 else pa.int64()
        return pa.array(values, width, mask=~valid).view(type_), bad

    def _other(self, rows: int) -> Made:
        if self._random.random() < 0.3:
            return pa.nulls(rows), np.zeros(rows, bool)
        values = pa.array(self._random.integers(-(10**6), 10**6, rows), mask=~self._valid(rows))
        small = [pa.decimal32(9, 1), pa.decimal64(18, 6)]
        type_ = self._one_of([pa.decimal128(25, 3), pa.decimal256(50, 10), pa.decimal128(38, 0), *small])
        return values.cast(pa.decimal256(70, type_.scale)).cast(type_), np.zeros(rows, bool)

    def _lengths(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        valid = self._valid(rows)
        return np.where(valid, self._random.integers(0, 4, rows), 0), valid

    def _list(self, rows: int, depth: int, build: Callable[..., pa.Array] = pa.ListArray.from_arrays) -> Made:
        lengths, valid = self._lengths(rows)
        items, bad = self.column(int(lengths.sum()), depth)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        offset_type = pa.int64() if build is pa.LargeListArray.from_arrays else pa.int32()
        hostile = np.zeros(rows, bool)
        np.logical_or.at(hostile, np.repeat(np.arange(rows), lengths), bad)
        return build(pa.array(offsets, offset_type), items, mask=pa.array(~valid)), hostile

    def _large_list(self, rows: int, depth: int) -> Made:
        return self._list(rows, depth, pa.LargeListArray.from_arrays)

    def _list_view(self, rows: int, depth: int) -> Made:
        lengths, valid = self._lengths(rows)
        items, bad = self.column(int(lengths.sum()), depth)
        starts = np.cumsum(lengths) - lengths
        hostile = np.zeros(rows, bool)
        np.logical_or.at(hostile, np.repeat(np.arange(rows), lengths), bad)
        ends = pa.array(starts, pa.int32()), pa.array(lengths, pa.int32())
        return pa.ListViewArray.from_arrays(*ends, items, mask=pa.array(~valid)), hostile

    def _fixed(self, rows: int, _: int) -> Made:
        # LanceDB stores fixed-size lists of numbers only; others are refused by name before a run.
        items, bad = self._number(2 * rows)
        array = pa.FixedSizeListArray.from_arrays(items, 2, mask=pa.array(~self._valid(rows)))
        return array, bad.reshape(rows, 2).any(axis=1)

    def _struct(self, rows: int, depth: int) -> Made:
        parts = [self.column(rows, depth) for _ in range(2)]
        valid = self._valid(rows)
        names = self._one_of([["a", "b"], ["b", "a"], ["a b", "é"]])
        array = pa.StructArray.from_arrays([part for part, _ in parts], names, mask=pa.array(~valid))
        return array, np.logical_or(parts[0][1], parts[1][1]) & valid


def comparable(column: pa.Array) -> list[Any]:
    """Values that can be compared whatever their type: instants as nanoseconds, floats as bits, texts as bytes."""
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_struct(column.type):
        parts = [comparable(part) for part in column.flatten()]
        names = [field.name for field in column.type]
        rows = zip(*parts, strict=True)
        return [
            dict(zip(names, row, strict=True)) if valid else None
            for row, valid in zip(rows, _valid(column), strict=True)
        ]
    if hasattr(column, "values") and types.is_nested(column.type):
        items = iter(comparable(column.flatten()))
        lengths = pc.list_value_length(column).to_pylist()
        return [[next(items) for _ in range(length)] if length is not None else None for length in lengths]
    return _comparable_leaf(column)


def _comparable_leaf(column: pa.Array) -> list[Any]:
    type_ = column.type
    if types.is_null(type_):
        return [None] * len(column)
    if types.is_floating(type_):
        # NaNs are equal whatever their bits: a Parquet page may hold any.
        return [None if value is None else "nan" if value != value else float(value) for value in column.to_pylist()]  # noqa: PLR0124
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        view = types.is_string_view(type_)
        return column.view(pa.binary_view()).to_pylist() if view else column.cast(pa.large_binary()).to_pylist()
    return _instants(column) if types.is_temporal(type_) else column.to_pylist()


def _instants(column: pa.Array) -> list[int | None]:
    """Dates in days; times, timestamps and durations in nanoseconds."""
    integers = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_pylist()
    if types.is_date(column.type):
        unit = DAY_MS if types.is_date64(column.type) else 1
        return [None if value is None else value // unit for value in integers]
    scale = UNITS["ns"] // UNITS[column.type.unit]
    return [None if value is None else value * scale for value in integers]


def _valid(column: pa.Array) -> list[bool]:
    return column.is_valid().to_pylist()


def corpus(seed: int) -> Counter[str]:
    """Indexes one corpus and compares every value; gives the counts.

    Raises:
        AssertionError: A row is lost, has another value, or is in the quarantine without a reason.
    """
    maker = Maker(seed)
    made = [maker.column(ROWS) for _ in range(COLUMNS)]
    names = [f"p{number}" for number in range(COLUMNS)]
    ids = [f"d{row:04d}" for row in range(ROWS)]
    table = pa.table({"id": ids, "text": ids, **dict(zip(names, (array for array, _ in made), strict=True))})
    hostile = np.logical_or.reduce([bad for _, bad in made])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus" / "a.parquet"
        path.parent.mkdir()
        # Arrow cannot cut views into row groups when it writes.
        group = ROWS if any("view" in str(type_) for type_ in table.schema.types) else 300
        pq.write_table(table, path, row_group_size=group, write_page_checksum=bool(seed % 2))
        given = fakes.settings(
            Path(folder),
            corpus={"payload": names},
            gates={"max_removed": 1.0, "max_quarantined": 1.0},
            run={"shard_mb": 1},
        )
        fakes.run_here(given)
        published = open_published(given.index.uri, "docs")
        stored = published.read(fakes.WIDTHS[-1], ["id", *names]).sort_by("id").combine_chunks()
        left_out = {row["id"]: row["reason"] for row in published.quarantine().to_pylist()}
    stored.validate(full=True)
    expected = {name for name, bad in zip(ids, hostile, strict=True) if bad}
    if left_out.keys() != expected or not set(left_out.values()) <= {"invalid_utf8", "bad_value"}:
        raise AssertionError(f"seed {seed}: quarantine {left_out} of {table.schema.types}, expected {expected}")
    rows = np.flatnonzero(~hostile)
    if stored["id"].to_pylist() != [ids[row] for row in rows]:
        raise AssertionError(f"seed {seed}: rows are lost")
    for name, (array, _) in zip(names, made, strict=True):
        theirs = comparable(array)
        ours = comparable(stored[name].chunk(0) if stored.num_rows else pa.nulls(0))
        different = [row for at, row in enumerate(rows) if ours[at] != theirs[row]]
        if different:
            raise AssertionError(f"seed {seed}: {name} ({array.type}) differs in rows {different[:5]}")
    return Counter({"typed corpora": 1, "typed rows": ROWS, **Counter(left_out.values())})


def run(rows: int, first_seed: int = 0) -> Counter[str]:
    """Pushes at least so many rows through."""
    counts: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + -(-rows // ROWS)):
        counts.update(corpus(seed))
    return counts
