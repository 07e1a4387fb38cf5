"""The comparison of what changed gives what the comparison of the whole corpus gives, wherever a run chooses it.

Digests and tables are those of this process; :mod:`tests.indexing.test_histories` has real ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count, pairwise
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from indexer import schema
from indexer.indexing import changes, diff, file_changes, increment
from indexer.indexing.diff import RangeDiff, merge_masks
from indexer.indexing.file_changes import FileChanges
from indexer.indexing.increment import Known
from indexer.indexing.layout_change import LayoutChange
from indexer.reasons import QuarantineReason
from tests.support.both_ways import said

Row = tuple[str | None, str, str, str | None]
"""Id, text, payload, and the reason why it was refused while it was read."""

IDS = [f"id-{number:02d}" for number in range(14)]

READ = [reason.value for reason in (QuarantineReason.EMPTY_TEXT, QuarantineReason.BAD_VALUE)]

MODEL = [reason.value for reason in sorted(diff.FOUND_BY_WORKERS)]

NIGHTS = 8

EDGES: list[list[str]] = [[], ["id-05"], ["id-03", "id-09"], ["", "id-07", "zz"]]


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


@dataclass(frozen=True)
class State:
    """A published epoch.

    Attributes:
        digests: Name of the digest of every file that it was made of.
        documents: Both hashes of every document in its tables.
        quarantine: Its quarantine, with paths of files.
        rows: Rows of the corpus, which it records, as it does further copies (``duplicates``).
        settings: Payload columns and layout.
        number: Its number.
        checked_in_full: The last epoch for which the whole corpus was compared.
        copied: The ids that have further rows; ``None`` if it does not tell them.
    """

    digests: dict[str, str]
    documents: dict[str, tuple[bytes, bytes]]
    quarantine: list[dict[str, Any]]
    rows: int
    duplicates: int
    settings: tuple[int, int] = (0, 0)
    number: int = 0
    checked_in_full: int = 0
    copied: pa.Table | None = None


@dataclass
class Corpus:
    """Files that are edited at random, and the settings; a changed file has another digest.

    Attributes:
        files: Rows of every file.
        digests: Name of every file's digest.
        tables: Every digest that there ever was by its name.
        settings: Payload columns and layout.
    """

    drawn: random.Random
    files: dict[str, list[Row]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    settings: tuple[int, int] = (0, 0)
    _numbers: "count[int]" = field(default_factory=count)

    def put(self, name: str, rows: list[Row]) -> None:
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
        self.drawn.choice([*kinds, self.mend, self.append])()

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


def documents(state: State, ids: Sequence[str] | None = None) -> pa.Table:
    """Published documents, of some ids or all."""
    found = sorted(name for name in state.documents if ids is None or name in ids)
    hashes = [state.documents[name] for name in found]
    return pa.table(
        {
            "id": pa.array(found, pa.string()),
            "content_hash": pa.array([text for text, _ in hashes], schema.CONTENT_HASH_TYPE),
            "payload_hash": pa.array([payload for _, payload in hashes], schema.PAYLOAD_HASH_TYPE),
        }
    )


def chosen(state: State, corpus: Corpus, epoch: int, rhythm: int) -> FileChanges | None:
    """What a run chooses to look at; ``None`` for all of it."""
    counts = SimpleNamespace(kept=0, documents=state.rows, duplicates=state.duplicates)
    copies = None if state.copied is None else "copies"
    described = SimpleNamespace(
        files="list", to_retry=0, counts=counts, checked_in_full=state.checked_in_full, copies=copies
    )
    digests = SimpleNamespace(get_list=lambda _: state.digests, names=lambda: {*corpus.tables})
    files = [SimpleNamespace(path=name) for name in sorted(corpus.files)]
    (before, layout), (now, asked) = state.settings, corpus.settings
    job: Any = SimpleNamespace(
        published=SimpleNamespace(description=described),
        change=LayoutChange([f"{layout} to {asked}"] if layout != asked else [], payload=before != now),
        epoch=epoch,
        settings=SimpleNamespace(run=SimpleNamespace(full_check_every=rhythm)),
        store=SimpleNamespace(digests=digests),
        corpus=SimpleNamespace(files=files, digest_name=lambda file: corpus.digests[file.path]),
    )
    return file_changes.since_published(job, ())


LEFT_OUT = pa.schema(
    [("id", pa.string()), ("file", pa.int32()), ("row", pa.int64()), ("reason", pa.string()), *schema.HASH_FIELDS]
)


def known(state: State, corpus: Corpus, files: FileChanges, low: str | None, high: str | None) -> Known:
    rows = [row | {"file": files.places.get(row["file"])} for row in state.quarantine]

    def elsewhere(ids: pl.Series) -> pl.DataFrame:
        frames = [diff.rows_of(corpus.tables[name], at) for at, name in files.unchanged.items()]
        nothing = diff.rows_of(schema.DIGEST_SCHEMA.empty_table(), 0)
        return pl.concat([nothing, *frames]).filter(pl.col("id").is_in(ids.implode()))

    digests: Any = SimpleNamespace(get_copies=lambda _: state.copied)
    return Known(
        lambda ids: documents(state, ids.to_list()),
        elsewhere,
        pa.Table.from_pylist(rows, LEFT_OUT),
        file_changes._copied(digests, files, low, high),
    )


Told = tuple[dict[str, Any], bool]
"""All that a comparison says, in one order, and whether the quarantine is another one."""


def told(found: list[RangeDiff], counts: dict[str, int] | None = None) -> Told:
    merged = reduce(changes._merged, found, changes._nothing({}))
    return said(replace(merged, counts=counts or merged.counts), found), any(part.quarantine_changed for part in found)


def incremental(state: State, corpus: Corpus, files: FileChanges, edges: list[str]) -> Told:
    added = {at: corpus.tables[name] for at, name in files.added.items()}
    removed = [corpus.tables[name] for name in files.removed]
    found = [
        increment.compare(added, removed, known(state, corpus, files, low, high), low, high)
        for low, high in pairwise([None, *edges, None])
    ]
    merged = reduce(changes._merged, found, changes._nothing({}))
    return told(found, increment.completed(merged.counts, files.corpus_rows, len(state.documents), merged.copied))


def whole(state: State, corpus: Corpus) -> RangeDiff:
    digests = [corpus.table(name) for name in sorted(corpus.files)]
    columns = [{name: row[name] for name in diff.QUARANTINE_COLUMNS} for row in state.quarantine]
    chosen = pa.schema([schema.QUARANTINE_SCHEMA.field(name) for name in diff.QUARANTINE_COLUMNS])
    left_out = pa.Table.from_pylist(columns, chosen)
    differs = state.settings[0] != corpus.settings[0]
    return diff.compare(digests, documents(state), left_out, None, None, payload_differs=differs)


def publish(state: State, corpus: Corpus, found: RangeDiff, epoch: int, checked: int) -> State:
    """The epoch that a run makes of a comparison; its workers refuse some documents."""
    drawn = corpus.drawn
    names = sorted(corpus.files)
    dropped = set(found.dropped.to_pylist())
    held = {name: hashes for name, hashes in state.documents.items() if name not in dropped}
    quarantine = [row | {"file": names[row["file"]]} for row in found.quarantine.to_pylist()]
    for masks, may_refuse in ((found.masks, True), (found.payload_masks, False)):
        for file, mask in masks.items():
            chosen = set(merge_masks([mask]).tolist())
            for row in corpus.table(names[file]).to_pylist():
                if row["row"] not in chosen:
                    continue
                place = {"id": row["id"], "file": names[file], "row": row["row"]}
                hashes = {name: row[name] for name in ("content_hash", "payload_hash")}
                if may_refuse and drawn.random() < 0.06:
                    quarantine.append(place | hashes | {"reason": drawn.choice(MODEL)})
                else:
                    held[row["id"]] = (row["content_hash"], row["payload_hash"])
    counts = (found.counts["documents"], found.counts["duplicates"])
    # Some epochs do not tell the copies.
    copied = found.copied if drawn.random() < 0.8 else None
    return State(dict(corpus.digests), held, quarantine, *counts, corpus.settings, epoch, checked, copied)


def history(seed: int) -> int:
    """Nights of one index; each that a run would compare by its changes is compared in both ways.

    Returns:
        The number of these nights.
    """
    drawn = random.Random(seed)
    rhythm = drawn.choice((3, 30))
    corpus = Corpus(drawn)
    for _ in range(5):
        corpus.add()
    nothing = State({}, {}, [], 0, 0)
    states = [publish(nothing, corpus, whole(nothing, corpus), 1, 1)]
    compared = 0
    for night in range(NIGHTS):
        for _ in range(drawn.choice((0, 1, 1, 2, 4))):
            corpus.edit()
        if not corpus.files:
            corpus.add()
        if drawn.random() < 0.15:
            corpus.choose()
        epoch = states[-1].number + 1
        # After a rollback, the published epoch is an earlier one.
        state = drawn.choice(states) if drawn.random() < 0.1 else states[-1]
        files = chosen(state, corpus, epoch, rhythm)
        is_due = epoch - state.checked_in_full >= rhythm
        assert (files is None) == (is_due or state.settings[0] != corpus.settings[0]), (seed, night)
        all_of_it = whole(state, corpus)
        if files is not None:
            ours, theirs = incremental(state, corpus, files, drawn.choice(EDGES)), told([all_of_it])
            assert ours == comparable(theirs, ours), (seed, night)
            compared += 1
        differs = bool(all_of_it.masks) or len(all_of_it.dropped) > 0 or all_of_it.quarantine_changed
        if differs or state.settings != corpus.settings:
            checked = state.checked_in_full if files is not None else epoch
            states.append(publish(state, corpus, all_of_it, epoch, checked))
    return compared


def comparable(theirs: Told, ours: Told) -> Told:
    """The whole comparison without the copies if the other one did not know them."""
    return theirs if ours[0]["copied"] is not None else (theirs[0] | {"copied": None}, theirs[1])


def histories(seeds: range) -> None:
    compared = sum(map(history, seeds))
    assert compared > len(seeds) * NIGHTS / 2, "most nights are compared by what changed"


def test_random_histories_are_compared_alike() -> None:
    histories(range(15))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 3000, 250))
def test_2000_random_histories_are_compared_alike(first: int) -> None:
    histories(range(first, first + 250))
