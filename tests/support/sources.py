"""The same documents at every kind of source."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import stores
from tests.support.hub import REPO, hub_of

Row = tuple[str, str, str]
"""Id, text, and the payload column ``kind``."""

NAMES = ("id", "text", "kind")


def jsonl(rows: Sequence[Row]) -> bytes:
    """Rows as JSON Lines."""
    lines = (json.dumps(dict(zip(NAMES, row, strict=True)), ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def delimited(rows: Sequence[Row], delimiter: str = ",") -> bytes:
    """Rows as CSV with a header."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([NAMES, *rows])
    return text.getvalue().encode()


def parquet(rows: Sequence[Row]) -> bytes:
    """Rows as Parquet in row groups of 50."""
    written = io.BytesIO()
    pq.write_table(table(rows), written, row_group_size=50)
    return written.getvalue()


def table(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table."""
    return pa.table(list(map(list, zip(*rows, strict=True))), names=list(NAMES))


FILES: dict[str, Callable[[Sequence[Row]], bytes]] = {
    "parquet": parquet,
    "jsonl": jsonl,
    "jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "ndjson.zst": lambda rows: pa.compress(jsonl(rows), "zstd", asbytes=True),
    "csv": delimited,
    "csv.gz": lambda rows: gzip.compress(delimited(rows)),
    "tsv": lambda rows: delimited(rows, "\t"),
}
"""Content of a file by its suffix."""


def write_files(folder: Path, suffix: str, rows: Sequence[Row], files: int = 2) -> None:
    """Writes rows to files of one format."""
    folder.mkdir(parents=True, exist_ok=True)
    each = -(-len(rows) // files)
    for number in range(files):
        content = FILES[suffix](rows[number * each : (number + 1) * each])
        (folder / f"part-{number}.{suffix}").write_bytes(content)


def hive_parquet(rows: Sequence[Row]) -> bytes:
    """Rows as Parquet, without the column that a directory names."""
    written = io.BytesIO()
    pq.write_table(table(rows).drop_columns(["kind"]), written)
    return written.getvalue()


def hive(folder: Path, rows: Sequence[Row]) -> None:
    """Writes rows as Parquet files in directories that name the payload column."""
    for kind in sorted({kind for *_, kind in rows}):
        below = folder / f"kind={kind}"
        below.mkdir(parents=True)
        (below / "0.parquet").write_bytes(hive_parquet([row for row in rows if row[2] == kind]))


def lance_dataset(folder: Path, rows: Sequence[Row]) -> None:
    """Writes rows as a Lance dataset of two fragments, with a row that is deleted."""
    import lance

    folder.mkdir(parents=True, exist_ok=True)
    written = [*rows[:5], ("deleted", "a row that is not there", "a"), *rows[5:]]
    dataset = lance.write_dataset(table(written), f"{folder}/docs.lance", max_rows_per_file=-(-len(written) // 2))
    dataset.delete("id = 'deleted'")


@dataclass(frozen=True)
class Source:
    """Where a corpus is read.

    Attributes:
        uri: The corpus's URI.
        folder: Its files on this machine.
        put: Writes an object of a store; ``None`` where files are read from the folder.
    """

    uri: str
    folder: Path
    put: stores.Put | None = None

    def upload(self) -> None:
        """Puts what the folder has now where the corpus is read."""
        if self.put is not None:
            for path in self.folder.iterdir():
                self.put(f"docs/{path.name}", path.read_bytes())


@contextmanager
def source(name: str, root: Path, rows: Sequence[Row]) -> Iterator[Source]:
    """Writes rows to a source.

    Args:
        name: One of :data:`SOURCES`.
        root: Folder to write to.
        rows: The rows.

    Yields:
        The source.
    """
    if name == "hive":
        hive(root, rows)
    elif name == "lance":
        lance_dataset(root, rows)
    else:
        write_files(root, name if name in FILES else "parquet", rows)
    if name == "hub":
        with hub_of(root):
            yield Source(f"hf://datasets/{REPO}", root)
    elif name in stores.STORES:
        with stores.STORES[name]() as (uri, put):
            found = Source(f"{uri}/docs", root, put)
            found.upload()
            yield found
    else:
        yield Source(str(root), root)


SOURCES = ("parquet", "jsonl", "csv.gz", "hive", "lance", "hub", *stores.STORES)


def param(name: str, *marks: pytest.MarkDecorator) -> Any:
    """A source as a test's parameter: skipped, and seen to be, where its emulator is not installed."""
    reason = "its emulator is not installed: see tests/support/stores.py"
    return pytest.param(name, marks=[pytest.mark.skipif(stores.MISSING.get(name, False), reason=reason), *marks])
