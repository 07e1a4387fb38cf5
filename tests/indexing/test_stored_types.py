"""A new file that sorts first does not change the type of a stored payload column, nor what other files are read as."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import CorpusError
from indexer.search.published import open_published
from indexer.settings import Settings
from tests.support.fakes import quarantine, run_here, settings

pytestmark = pytest.mark.heavy

FIRST, OTHER = "a", "b"


def given(root: Path, **corpus: Any) -> Settings:
    return settings(
        root,
        corpus={"uri": str(root / "corpus"), "payload": ["p"], **corpus},
        index={"widths": [32]},
        gates={"max_quarantined": 1.0, "max_removed": 1.0},
    )


def rows(name: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"id": f"{name}{at}", "text": f"text {at} of {name}", "p": value} for at, value in enumerate(values)]


def write(root: Path, name: str, values: Sequence[Any], suffix: str) -> None:
    """Writes a file with a payload column."""
    path = root / "corpus" / f"{name}.{suffix}"
    path.parent.mkdir(exist_ok=True)
    if suffix == "csv":
        path.write_text("id,text,p\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows(name, values)))
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows(name, values)))


def write_parquet(root: Path, name: str, values: pa.Array) -> None:
    (root / "corpus").mkdir(exist_ok=True)
    table = pa.table({"id": [f"{name}{at}" for at in range(len(values))], "text": [f"text {name}"] * len(values)})
    pq.write_table(table.append_column("p", values), root / "corpus" / f"{name}.parquet")


def stored(given: Settings) -> tuple[str, dict[str, Any]]:
    """Type and values of the payload column."""
    table = open_published(given.index.uri, "docs").read(32, ["id", "p"])
    return str(table["p"].type), dict(zip(table["id"].to_pylist(), table["p"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("suffix", "values", "newcomer", "type_", "read"),
    [
        ("csv", [1.5, 2, 3], [3], "double", [3.0]),
        ("csv", ["00501", "00502"], [99999], "string", ["99999"]),
        ("csv", ["true", "false"], ["true"], "bool", [True]),
        ("jsonl", [1.5, 2], [3], "double", [3.0]),
        ("jsonl", ["A1", "B2"], [77], "string", ["77"]),
        ("jsonl", [{"x": 1, "y": "z"}], [{"x": 2}], "struct<x: int64, y: string>", [{"x": 2, "y": None}]),
        ("jsonl", [["x"], ["y"]], [[]], "list<item: string>", [[]]),
    ],
)  # fmt: skip
def test_a_newcomer_of_a_narrower_type_is_read_as_the_stored_one(
    tmp_path: Path, suffix: str, values: list[Any], newcomer: list[Any], type_: str, read: list[Any]
) -> None:
    write(tmp_path, OTHER, values, suffix)
    ours = given(tmp_path)
    run_here(ours)
    before = stored(ours)
    assert before[0] == type_
    write(tmp_path, FIRST, newcomer, suffix)
    summary = run_here(ours)
    assert (summary["new"], summary["unchanged"], summary["payload_changed"]) == (1, len(values), 0)
    assert stored(ours) == (type_, before[1] | {f"a{at}": value for at, value in enumerate(read)})


@pytest.mark.parametrize(
    ("suffix", "values", "newcomer", "type_", "read"),
    [
        ("csv", [1, 2], [2.5], "double", [1.0, 2.0]),
        ("csv", [1, 2], ["A1"], "string", ["1", "2"]),
        ("csv", [1.50, 2], ["none"], "string", ["1.5", "2"]),
        ("jsonl", [1, 2], ["A1"], "string", ["1", "2"]),
        ("csv", [1, 20], ["007"], "string", ["1", "20"]),
        ("jsonl", [{"x": 1}], [{"y": [2]}], "struct<x: int64, y: list<item: int64>>", [{"x": 1, "y": None}]),
        ("jsonl", [[{"x": 1}]], [[{"x": 0.5}]], "list<item: struct<x: double>>", [[{"x": 1.0}]]),
    ],
)  # fmt: skip
def test_a_newcomer_of_a_wider_type_widens_the_stored_one(
    tmp_path: Path, suffix: str, values: list[Any], newcomer: list[Any], type_: str, read: list[Any]
) -> None:
    write(tmp_path, OTHER, values, suffix)
    ours = given(tmp_path)
    run_here(ours)
    write(tmp_path, FIRST, newcomer, suffix)
    summary = run_here(ours)
    assert (summary["new"], summary["deleted"], summary["quarantined"], summary["tokens"] > 0) == (1, 0, 0, True)
    found = stored(ours)
    assert found[0] == type_
    assert [found[1][f"b{at}"] for at in range(len(values))] == read
    (tmp_path / "corpus" / f"a.{suffix}").unlink()
    run_here(ours)
    assert stored(ours)[0] == type_, "it does not flip back"


def test_values_that_no_type_holds_together_are_the_newcomers_fault(tmp_path: Path) -> None:
    write(tmp_path, OTHER, [True, False] * 30, "jsonl")
    ours = given(tmp_path)
    run_here(ours)
    before = stored(ours)
    write(tmp_path, FIRST, ["sometimes"], "jsonl")
    run_here(ours)
    assert stored(ours) == before
    assert quarantine(ours) == [("a0", "bad_value")]


def test_a_type_that_all_files_have_now_is_taken(tmp_path: Path) -> None:
    """Also one that a column got because it had no values."""
    ours = given(tmp_path)
    for values, type_ in (([None], "string"), ([True], "bool"), (["on"], "string"), ([None], "string")):
        for name in (FIRST, OTHER):
            write(tmp_path, name, [None, *values], "jsonl")
        run_here(ours)
        assert stored(ours)[0] == type_
        assert quarantine(ours) == []


def test_a_new_generation_has_the_types_of_its_files(tmp_path: Path) -> None:
    write(tmp_path, OTHER, ["A1"], "csv")
    ours = given(tmp_path)
    run_here(ours)
    write(tmp_path, OTHER, [5], "csv")
    run_here(ours)
    assert stored(ours) == ("string", {"b0": "5"})
    run_here(ours, rebuild="always")
    assert stored(ours) == ("int64", {"b0": 5})


def test_what_an_earlier_version_stored_stays(tmp_path: Path) -> None:
    """It dropped leading zeros of a file that has not changed since: that file's digest names no fault."""
    write(tmp_path, FIRST, [99999], "csv")
    write(tmp_path, OTHER, [99501], "csv")
    ours = given(tmp_path)
    run_here(ours)
    path = tmp_path / "corpus" / "b.csv"
    made = path.stat()
    write(tmp_path, OTHER, ["00501"], "csv")
    os.utime(path, ns=(made.st_atime_ns, made.st_mtime_ns))
    assert run_here(ours)["status"] == "unchanged"
    write(tmp_path, "c", [5], "csv")
    summary = run_here(ours)
    counts = [summary[name] for name in ("new", "unchanged", "payload_changed", "quarantined")]
    assert (counts, stored(ours)[0]) == ([1, 2, 0, 0], "int64")
    run_here(ours, rebuild="always")
    assert stored(ours) == ("int64", {"a0": 99999, "b0": 501, "c0": 5})


def test_a_drifted_newcomer_of_parquet_is_named_and_left_out(tmp_path: Path) -> None:
    for name in ("b", "c", "d"):
        write_parquet(tmp_path, name, pa.array([1, 2], pa.int64()))
    run_here(given(tmp_path))
    before = stored(given(tmp_path))
    write_parquet(tmp_path, "a", pa.array([3, 4], pa.int32()))
    with pytest.raises(CorpusError, match=r"a\.parquet: .* 'p' is int32, elsewhere int64, as in .*b\.parquet"):
        run_here(given(tmp_path))
    loose = given(tmp_path, strict=False)
    summary = run_here(loose)
    assert (summary["unchanged"], summary["kept"], summary["payload_changed"]) == (6, 0, 0)
    assert (stored(loose), quarantine(loose)) == (before, [(None, "wrong_columns")])


def test_a_type_that_all_files_of_parquet_have_now_is_taken(tmp_path: Path) -> None:
    ours = given(tmp_path)
    for type_ in (pa.int32(), pa.int64(), pa.string()):
        for name in ("a", "b"):
            write_parquet(tmp_path, name, pa.array([1, 2], pa.int32()).cast(type_))
        run_here(ours)
        assert stored(ours)[0] == str(type_)
