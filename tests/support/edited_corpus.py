"""A corpus of digests that is edited at random, for tests of comparisons."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pyarrow as pa

from indexer import schema
from indexer.indexing.scan import Unread
from indexer.reasons import QuarantineReason

Row = tuple[str | None, str, str, str | None]
"""Id, text, payload, and the reason why it was refused while it was read."""

IDS = [f"id-{number:02d}" for number in range(14)]

READ = [reason.value for reason in (QuarantineReason.EMPTY_TEXT, QuarantineReason.BAD_VALUE)]

UNREADABLE = (QuarantineReason.BAD_FILE, QuarantineReason.WRONG_COLUMNS)


def digest(rows: Sequence[Row], payload_columns: int) -> pa.Table:
    columns = [
        {
            "row": at,
            "id": name,
            "content_hash": text.encode().ljust(16, b"-"),
            "payload_hash": f"{payload}{payload_columns}".encode().ljust(8),
            "text_bytes": len(text),
            "payload_bytes": 1,
            "reason": reason,
        }
        for at, (name, text, payload, reason) in enumerate(rows)
    ]
    return pa.Table.from_pylist(columns, schema.DIGEST_SCHEMA).sort_by("id")


@dataclass
class Corpus:
    """Files that are edited at random, and the settings; a changed file has another digest.

    Attributes:
        files: Rows of every file.
        digests: Name of every file's digest.
        tables: Every digest that there ever was by its name.
        settings: Payload columns and layout.
        broken: Files that cannot be read, with the reason. Most never could.
    """

    drawn: random.Random
    files: dict[str, list[Row]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    settings: tuple[int, int] = (0, 0)
    broken: dict[str, QuarantineReason] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=count)

    @property
    def names(self) -> list[str]:
        return sorted({*self.files, *self.broken})

    @property
    def unread(self) -> dict[str, Unread]:
        """The files that cannot be read, by the names of the digests that they would have."""
        return {f"digest-of-{name}": Unread(name, reason, "", None) for name, reason in self.broken.items()}

    def digest_name(self, file: Any) -> str:
        return self.digests.get(file.path, f"digest-of-{file.path}")

    def put(self, name: str, rows: list[Row]) -> None:
        self.broken.pop(name, None)
        self.files[name], self.digests[name] = rows, f"digest-{next(self._numbers)}"
        self.tables[self.digests[name]] = digest(rows, self.settings[0])

    def table(self, name: str) -> pa.Table:
        return self.tables[self.digests[name]]

    def choose(self) -> None:
        """Other payload columns, for which every file is digested anew, or another layout."""
        columns, layout = self.settings
        if self.drawn.random() < 0.5:
            self.settings = columns, layout + self.drawn.choice((-1, 1))
            return
        self.settings = columns + self.drawn.choice((-1, 1)), layout
        for name, rows in list(self.files.items()):
            self.put(name, rows)

    def drop(self, name: str) -> None:
        del self.files[name], self.digests[name]

    def row(self) -> Row:
        reason = self.drawn.choice(READ) if self.drawn.random() < 0.08 else None
        if self.drawn.random() < 0.05:
            return (None, "text", "p", "null_id")
        return (self.drawn.choice(IDS), self.drawn.choice("ABCDE"), self.drawn.choice("pqr"), reason)

    def unlike(self) -> Row:
        """A row whose id no file has, if there is one: most corpora have no copies."""
        used = {name for rows in self.files.values() for name, *_ in rows}
        free = [name for name in IDS if name not in used]
        made = self.row()
        return (self.drawn.choice(free), *made[1:]) if free and made[0] is not None else made

    def edit(self) -> None:
        kinds = [self.add, self.remove, self.rename, self.rewrite, self.repartition, self.copy, self.move, self.repay]
        self.drawn.choice([*kinds, self.mend, self.append, self.spoil, self.restore])()

    def spoil(self) -> None:
        """A file that cannot be read, rarely one that was read."""
        name = f"b{self.drawn.randrange(2)}" if self.drawn.random() < 0.9 else str(self._any())
        if name in self.files and len(self.files) > 1:
            self.drop(name)
        if name not in self.files:
            self.broken[name] = self.drawn.choice(UNREADABLE)

    def restore(self) -> None:
        """Such a file can be read, has another fault, or is gone."""
        if self.broken:
            name = self.drawn.choice(sorted(self.broken))
            del self.broken[name]
            if self.drawn.random() < 0.5:
                self.put(name, [self.unlike()])
            elif self.drawn.random() < 0.5:
                self.broken[name] = self.drawn.choice(UNREADABLE)

    def add(self) -> None:
        make = self.row if self.drawn.random() < 0.3 else self.unlike
        name = f"f{self.drawn.randrange(9)}"
        self.put(name, [])
        for _ in range(self.drawn.randrange(5)):
            self.put(name, [*self.files[name], make()])

    def _any(self) -> str | None:
        return self.drawn.choice(sorted(self.files)) if self.files else None

    def remove(self) -> None:
        if (name := self._any()) is not None and len(self.files) > 1:
            self.drop(name)

    def rename(self) -> None:
        if (name := self._any()) is not None:
            rows = self.files[name]
            self.drop(name)
            self.put(f"f{self.drawn.randrange(9)}", rows)

    def rewrite(self) -> None:
        if (name := self._any()) is not None and self.files[name]:
            rows = list(self.files[name])
            at = self.drawn.randrange(len(rows))
            rows[at] = (rows[at][0], self.drawn.choice("ABCDE"), *rows[at][2:])
            self.drawn.shuffle(rows)
            self.put(name, rows)

    def append(self) -> None:
        if (name := self._any()) is not None:
            self.put(name, [*self.files[name], self.unlike()])

    def repartition(self) -> None:
        rows = [row for held in self.files.values() for row in held]
        self.drawn.shuffle(rows)
        names = [f"f{self.drawn.randrange(9)}" for _ in range(3)]
        for name in list(self.files):
            self.drop(name)
        for name in dict.fromkeys(names):
            self.put(name, [row for row in rows if self.drawn.choice(names) == name])

    def copy(self) -> None:
        if (name := self._any()) is not None and self.files[name]:
            into = self._any()
            row = self.drawn.choice(self.files[name])
            payload = self.drawn.choice((row[2], "r"))
            self.put(str(into), [*self.files[str(into)], (row[0], row[1], payload, row[3])])

    def move(self) -> None:
        if (name := self._any()) is not None and self.files[name]:
            rows = list(self.files[name])
            row = rows.pop(self.drawn.randrange(len(rows)))
            self.put(name, rows)
            into = str(self._any())
            self.put(into, [*self.files[into], (self.drawn.choice((row[0], *IDS)), *row[1:])])

    def repay(self) -> None:
        if (name := self._any()) is not None:
            self.put(name, [(row[0], row[1], self.drawn.choice("pqr"), row[3]) for row in self.files[name]])

    def mend(self) -> None:
        for name, rows in sorted(self.files.items()):
            if any(row[3] in READ for row in rows):
                self.put(name, [(*row[:3], None) if row[3] in READ else row for row in rows])
                return
