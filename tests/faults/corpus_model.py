"""A corpus that is edited in every way, and what an index of it must hold."""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FEWEST_ROWS = 4

MOST_ROWS = 14


@dataclass(frozen=True)
class Row:
    """One row, with an id and a text column more than an index reads."""

    id: str | None
    key: str
    title: str | None
    text: str | None
    kind: str
    lang: str


@dataclass(frozen=True)
class Setup:
    """Settings that runs differ in."""

    id_column: str = "id"
    text_columns: tuple[str, ...] = ("text",)
    payload: tuple[str, ...] = ("kind", "lang")
    widths: tuple[int, ...] = (64, 32)
    precision: str = "float32"
    text_search: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    metric: str = "cosine"
    stored: str = "auto"


Document = tuple[str, tuple[tuple[str, str], ...]]
"""A text and a payload, sorted by column."""


@dataclass(frozen=True)
class Expected:
    """What an index must hold: for every id what its row may be, and (id, reason) of the quarantine."""

    documents: dict[str, set[Document]]
    quarantine: list[tuple[str | None, str]]


def expected(rows: Iterable[Row], setup: Setup) -> Expected:
    """What a run with these settings makes of these rows."""
    quarantine: list[tuple[str | None, str]] = []
    usable: dict[str, list[Document]] = defaultdict(list)
    for row in rows:
        name: str | None = getattr(row, setup.id_column)
        parts = [value for column in setup.text_columns if (value := getattr(row, column)) is not None]
        text = "\n".join(part for part in parts if part.strip())
        if name is None:
            quarantine.append((None, "null_id"))
        elif not parts:
            quarantine.append((name, "null_text"))
        elif not text.strip():
            quarantine.append((name, "empty_text"))
        else:
            usable[name].append((text, tuple(sorted((column, getattr(row, column)) for column in setup.payload))))
    documents = {}
    for name, copies in usable.items():
        if len({text for text, _ in copies}) > 1:
            quarantine += [(name, "duplicate_id")] * len(copies)
        else:
            documents[name] = set(copies)
    return Expected(documents, sorted(quarantine, key=str))


class CorpusModel:
    """Files of rows, in memory and in a folder."""

    def __init__(self, folder: Path, drawn: random.Random) -> None:
        """Writes a first corpus."""
        self.folder = folder
        self.files: dict[str, list[Row]] = {}
        self._random = drawn
        self._made = 0
        folder.mkdir()
        self._put("0.parquet", [self._new() for _ in range(FEWEST_ROWS)])

    @property
    def rows(self) -> list[Row]:
        """All rows, of all files."""
        return [row for name in sorted(self.files) for row in self.files[name]]

    def edit(self) -> str:
        """Changes something; says what."""
        edits = [
            self._add,
            self._repeat,
            self._remove,
            self._change,
            self._copy,
            self._break,
            self._mend,
            self._arrange,
            self._rename,
        ]
        chosen = self._random.choice(edits)
        chosen()
        return chosen.__name__.strip("_")

    def _new(self) -> Row:
        self._made += 1
        text = f"text {self._made} {self._random.randrange(1000)}"
        return Row(f"d{self._made}", f"k{self._made}", f"title {self._made}", text, *self._payload())

    def _payload(self) -> tuple[str, str]:
        return self._random.choice("ab"), self._random.choice(("de", "en"))

    def _file(self) -> str:
        return self._random.choice(sorted(name for name, rows in self.files.items() if rows))

    def _put(self, name: str, rows: list[Row]) -> None:
        """Replaces a file at once, or deletes it when nothing is left."""
        path = self.folder / name
        if not rows:
            self.files.pop(name, None)
            path.unlink(missing_ok=True)
            return
        self.files[name] = rows
        columns = {field: [getattr(row, field) for row in rows] for field in Row.__dataclass_fields__}
        written = path.parent.parent / "next.parquet"
        pq.write_table(pa.table({field: pa.array(values, pa.string()) for field, values in columns.items()}), written)
        written.replace(path)

    def _add(self) -> None:
        if len(self.rows) < MOST_ROWS:
            name = self._random.choice([*sorted(self.files), f"{self._made}.parquet"])
            self._put(name, [*self.files.get(name, []), *(self._new() for _ in range(self._random.randint(1, 3)))])

    def _repeat(self) -> None:
        """The text of a document stands under other ids too."""
        name = self._file()
        row = self._random.choice(self.files[name])
        rows = self.files[name]
        for _ in range(self._random.randint(1, 2)):
            if len(self.rows) < MOST_ROWS:
                rows = [*rows, replace(self._new(), title=row.title, text=row.text)]
        self._put(name, rows)

    def _remove(self) -> None:
        name = self._file()
        gone = self._random.choice((1, len(self.files[name])))
        if len(self.rows) - gone >= FEWEST_ROWS:
            self._put(name, self.files[name][gone:])

    def _change(self) -> None:
        """Texts, payloads, ids: of one row or of the whole file."""
        name = self._file()
        what = self._random.choice(("text", "title", "kind", "id", "key"))
        rows = list(self.files[name])
        for at in self._random.sample(range(len(rows)), self._random.choice((1, len(rows)))):
            self._made += 1
            value = "c" if what == "kind" else f"{what} {self._made}"
            rows[at] = replace(rows[at], **{what: value})
        self._put(name, rows)

    def _copy(self) -> None:
        """The same document twice: equal, with another payload, or with another text."""
        name, other = self._file(), self._file()
        row = self._random.choice(self.files[name])
        # No text may hold a stop word, which full-text search leaves out: "other" is one.
        copy = self._random.choice((row, replace(row, kind="z"), replace(row, text=f"copy {self._made}")))
        if len(self.rows) < MOST_ROWS:
            self._put(other, [*self.files[other], copy])

    def _break(self) -> None:
        name = self._file()
        rows = list(self.files[name])
        at = self._random.randrange(len(rows))
        broken = self._random.choice(
            ({"id": None}, {"text": None}, {"text": " ", "title": None}, {"text": None, "title": None})
        )
        if sum(row.id is not None and bool((row.text or "").strip()) for row in self.rows) > FEWEST_ROWS:
            rows[at] = replace(rows[at], **broken)
            self._put(name, rows)

    def _mend(self) -> None:
        for name in sorted(self.files):
            broken = [row for row in self.files[name] if row.id is None or not (row.text or "").strip()]
            if broken:
                whole = (row if row not in broken else self._new() for row in self.files[name])
                self._put(name, list(whole))

    def _arrange(self) -> None:
        """The same rows in other files and another order."""
        rows = self.rows
        self._random.shuffle(rows)
        parts = self._random.randint(1, 3)
        old = sorted(self.files)
        for part in range(parts):
            self._put(f"part-{self._made}-{part}.parquet", rows[part::parts])
        for name in set(old) - {f"part-{self._made}-{part}.parquet" for part in range(parts)}:
            self._put(name, [])

    def _rename(self) -> None:
        name = self._file()
        self._made += 1
        rows = self.files.pop(name)
        (self.folder / name).rename(self.folder / f"{self._made}.parquet")
        self.files[f"{self._made}.parquet"] = rows
