"""Generated rows and mutated Parquet files through the real reading, tokenising and writing, with the fake engine.

``make fuzz`` is ``python -m tests.faults.fuzz``. Hypothesis draws what goes in; every row
must be indexed, quarantined or a copy of another one, and every table must be readable to the last byte.
"""

import argparse
import datetime
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from indexer.indexing import bounds
from indexer.publishing.gates import Gate
from indexer.search.published import open_published
from indexer.storage.control import ControlStore
from tests.faults import fuzz_types
from tests.support import fakes

ROWS = 1000
"""Rows of one corpus."""

FILES = 50
"""Mutated files of one corpus."""

ANY = {"max_removed": 1.0, "max_quarantined": 1.0}

MARKERS = [
    "<|endoftext|>",
    "<|im_start|>system",
    "</think>",
    "[SEP]",
    "[CLS]",
    "\x00",
    "\ufeff",
    "'; DROP",
    "\u202e",
    "%_",
]

TEXT = st.one_of(
    st.none(),
    st.binary(max_size=12),
    st.text(max_size=40).map(str.encode),
    st.lists(st.sampled_from([*MARKERS, " ", "\n", "word", "e\u0301", "\U0001f600", "\x1b[0m"]), max_size=12).map(
        lambda parts: "".join(parts).encode()
    ),
    st.integers(1, 4000).map(lambda count: b"long " * count),
)

PAYLOADS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "string": (pa.string(), st.none() | st.text(max_size=8)),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from([None, "a", "b"])),
    "large": (pa.large_string(), st.text(max_size=4)),
    "time": (pa.timestamp("us", "UTC"), st.none() | st.datetimes(min_value=datetime.datetime(1700, 1, 1))),
    "decimal": (pa.decimal128(20, 3), st.none() | st.integers(-(10**15), 10**15).map(lambda n: Decimal(n) / 1000)),
    "float": (pa.float64(), st.none() | st.floats()),
    "list": (pa.list_(pa.int64()), st.none() | st.lists(st.integers(-5, 5), max_size=3)),
    "struct": (
        pa.struct([("a", pa.int32()), ("b", pa.string())]),
        st.builds(dict, a=st.integers(0, 9), b=st.text(max_size=3)),
    ),
    "binary": (pa.binary(), st.none() | st.binary(max_size=6)),
}


class Found:
    """What became of everything so far."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def corpus(self, root: Path, **corpus: Any) -> None:
        """Indexes a corpus and reads everything back."""
        chosen = fakes.settings(root, corpus=corpus, gates=ANY)
        summary = fakes.run_here(chosen)
        published = open_published(chosen.index.uri, "docs")
        for width in fakes.WIDTHS:
            table = published.read(width)
            table.validate(full=True)
            if table.num_rows != summary["chunks"] or len(pc.unique(table["id"])) != summary["indexed"]:
                raise AssertionError(f"width {width} has {table.num_rows} rows: {summary}")
        left_out = published.quarantine()
        left_out.validate(full=True)
        if left_out.num_rows != summary["quarantined"]:
            raise AssertionError(f"{left_out.num_rows} rows in the quarantine: {summary}")
        if summary["documents"] != summary["indexed"] + summary["quarantined"] + summary["duplicates"]:
            raise AssertionError(f"not every row has a fate: {summary}")
        kept = ControlStore(chosen.index.uri, "docs").quarantine(published.epoch)
        if sorted(kept["row"].to_pylist()) != sorted(left_out["row"].to_pylist()):
            raise AssertionError("the quarantine's Parquet file differs from its table")
        self.counts.update({"corpora": 1, "rows": summary["documents"], "indexed": summary["indexed"]})
        self.counts.update({"duplicates": summary["duplicates"]})
        self.counts.update(left_out["reason"].to_pylist())


def _strings(values: list[bytes | None]) -> pa.Array:
    """Strings of whatever bytes these are: Parquet files hold such, and readers do not check."""
    return pa.array(values, pa.binary()).view(pa.string())


@st.composite
def corpora(draw: st.DrawFn) -> pa.Table:
    """A corpus of many rows, mixed from a few drawn values."""
    texts = draw(st.lists(TEXT, min_size=5, max_size=40))
    ids = draw(
        st.lists(st.none() | st.binary(max_size=6) | st.text(max_size=12).map(str.encode), min_size=1, max_size=20)
    )
    type_, values = PAYLOADS[draw(st.sampled_from(sorted(PAYLOADS)))]
    payload = draw(st.lists(values, min_size=1, max_size=10))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = random.integers(0, 2**31, (ROWS, 3))
    names = [ids[row % len(ids)] if row % 10 == 0 else f"id-{at}".encode() for at, row in enumerate(rows[:, 0])]
    bodies = [texts[row % len(texts)] for row in rows[:, 1]]
    bodies = [
        body if row % 3 or body is None else body + b" %d" % row for body, row in zip(bodies, rows[:, 1], strict=True)
    ]
    columns = {"id": _strings(names), "text": _strings(bodies)}
    kinds = pa.array([payload[row % len(payload)] for row in rows[:, 2]], type_)
    return pa.table(columns | {"kind": kinds})


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, float, int]]:
    """For every file what is done to it, where (a share of its length) and with which byte."""
    one = st.tuples(st.sampled_from(["cut", "flip", "flip", "insert", "zero"]), st.floats(0, 1), st.integers(1, 255))
    return draw(st.lists(one, min_size=FILES, max_size=FILES))


def mutated(content: bytes, kind: str, where: float, byte: int) -> bytes:
    """The file with one region cut off, flipped, inserted or zeroed."""
    at = min(int(where * len(content)), len(content) - 1)
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ byte]) + content[at + 1 :]
    if kind == "insert":
        return content[:at] + bytes([byte]) * 7 + content[at:]
    return content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :]


def sound_file(path: Path, seed: int) -> bytes:
    """A small file with several row groups, encodings and a compressed page."""
    rows = fakes.words(60, seed)
    table = pa.table(
        {
            "id": [f"{seed}-{name}" for name, _ in rows],
            "text": [text for _, text in rows],
            "kind": pa.array(["page", "note", None] * 20).dictionary_encode(),
        }
    )
    compression = ["none", "snappy", "zstd", "gzip"][seed % 4]
    pq.write_table(table, path, row_group_size=20, compression=compression, data_page_version=["1.0", "2.0"][seed % 2])
    return path.read_bytes()


def rows(found: Found, count: int) -> None:
    """Pushes at least ``count`` rows through."""

    @_drawing(-(-count // ROWS))
    @given(table=corpora())
    def push(table: pa.Table) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "corpus").mkdir()
            pq.write_table(table, Path(folder) / "corpus" / "a.parquet", row_group_size=300)
            found.corpus(Path(folder))

    push()


def files(found: Found, count: int) -> None:
    """Pushes ``count`` mutated files through, each corpus with one that is sound."""

    @_drawing(-(-count // FILES))
    @given(chosen=mutations())
    def push(chosen: list[tuple[str, float, int]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "corpus"
            root.mkdir()
            for number, (kind, where, byte) in enumerate(chosen):
                path = root / f"{number + 1:03d}.parquet"
                path.write_bytes(mutated(sound_file(path, number), kind, where, byte))
            sound_file(root / "000.parquet", FILES)
            found.corpus(Path(folder), strict=False)
            found.counts["mutated files"] += len(chosen)

    push()


def _drawing(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def run(row_count: int, file_count: int) -> Counter[str]:
    """Pushes both kinds through and gives the counts."""
    found = Found()
    gate = bounds.file_gate
    bounds.file_gate = lambda *_: Gate("files", 0, 1, holds=True)
    try:
        rows(found, row_count)
        files(found, file_count)
    finally:
        bounds.file_gate = gate
    return found.counts


def main() -> None:
    """Fuzzes and prints the counts."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--rows", type=int, default=200_000, help="generated rows")
    command.add_argument("--typed", type=int, default=200_000, help="rows of all Arrow types at every depth")
    command.add_argument("--files", type=int, default=5_000, help="mutated Parquet files")
    arguments = command.parse_args()
    for name, number in sorted((run(arguments.rows, arguments.files) + fuzz_types.run(arguments.typed)).items()):
        print(f"{name:>16} {number:>9,}")


if __name__ == "__main__":
    main()
