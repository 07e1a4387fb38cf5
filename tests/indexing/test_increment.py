"""The comparison of what changed gives what the comparison of the whole corpus gives."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from indexer import schema
from indexer.indexing import diff, increment
from indexer.indexing.diff import RangeDiff, merge_masks
from indexer.indexing.increment import Known
from indexer.reasons import QuarantineReason

Row = tuple[str | None, str, str, str | None]
"""Id, text, payload, and the reason why it was refused while it was read."""

IDS = [f"id-{number:02d}" for number in range(14)]

READ = [reason.value for reason in (QuarantineReason.EMPTY_TEXT, QuarantineReason.BAD_VALUE)]

MODEL = [reason.value for reason in sorted(diff.FOUND_BY_WORKERS)]

NIGHTS = 8

EDGES: list[list[str]] = [[], ["id-05"], ["id-03", "id-09"], ["", "id-07", "zz"]]


def digest(rows: Sequence[Row]) -> pa.Table:
    columns = [
        {
            "row": at,
            "id": name,
            "content_hash": text.encode().ljust(16, b"-"),
            "payload_hash": payload.encode().ljust(8),
            "text_bytes": len(text),
            "payload_bytes": 1,
            "reason": reason,
        }
        for at, (name, text, payload, reason) in enumerate(rows)
    ]
    return pa.Table.from_pylist(columns, schema.DIGEST_SCHEMA).sort_by("id")


@dataclass(frozen=True)
class State:
    """A published epoch: the files it was made of, what its tables hold, and the counts that it records."""

    files: dict[str, pa.Table]
    documents: dict[str, tuple[bytes, bytes]]
    quarantine: list[dict[str, Any]]
    rows: int
    duplicates: int


@dataclass
class Corpus:
    """Files that are edited at random; a changed file is another table."""

    drawn: random.Random
    files: dict[str, list[Row]] = field(default_factory=dict)
    digests: dict[str, pa.Table] = field(default_factory=dict)

    def put(self, name: str, rows: list[Row]) -> None:
        self.files[name], self.digests[name] = rows, digest(rows)

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


LEFT_OUT = pa.schema(
    [("id", pa.string()), ("file", pa.int32()), ("row", pa.int64()), ("reason", pa.string()), *schema.HASH_FIELDS]
)


def known(state: State, corpus: Corpus) -> Known:
    places = {name: at for at, name in enumerate(sorted(corpus.files))}
    stays = {name for name in places if state.files.get(name) is corpus.digests[name]}
    rows = [row | {"file": places[row["file"]] if row["file"] in stays else None} for row in state.quarantine]

    def elsewhere(ids: pl.Series) -> pl.DataFrame:
        frames = [diff.rows_of(corpus.digests[name], places[name]) for name in sorted(stays)]
        nothing = diff.rows_of(schema.DIGEST_SCHEMA.empty_table(), 0)
        return pl.concat([nothing, *frames]).filter(pl.col("id").is_in(ids.implode()))

    return Known(
        lambda ids: documents(state, ids.to_list()),
        elsewhere,
        pa.Table.from_pylist(rows, LEFT_OUT),
        has_copies=state.duplicates > 0,
    )


def incremental(state: State, corpus: Corpus, edges: list[str]) -> tuple[list[RangeDiff], dict[str, int]]:
    places = {name: at for at, name in enumerate(sorted(corpus.files))}
    stays = {name for name in places if state.files.get(name) is corpus.digests[name]}
    added = {places[name]: corpus.digests[name] for name in places if name not in stays}
    removed = [table for name, table in state.files.items() if name not in stays]
    given = known(state, corpus)
    found = [increment.compare(added, removed, given, low, high) for low, high in pairwise([None, *edges, None])]
    return found, increment.completed(summed(found), state.rows, len(state.documents))


def summed(found: Sequence[RangeDiff]) -> dict[str, int]:
    return {name: sum(part.counts[name] for part in found) for name in found[0].counts}


def whole(state: State, corpus: Corpus) -> RangeDiff:
    digests = [corpus.digests[name] for name in sorted(corpus.files)]
    columns = [{name: row[name] for name in diff.QUARANTINE_COLUMNS} for row in state.quarantine]
    chosen = pa.schema([schema.QUARANTINE_SCHEMA.field(name) for name in diff.QUARANTINE_COLUMNS])
    return diff.compare(digests, documents(state), pa.Table.from_pylist(columns, chosen), None, None)


def told(found: Sequence[RangeDiff], counts: dict[str, int]) -> dict[str, Any]:
    """All that a comparison says, in one order."""
    masks: dict[str, Any] = {}
    for name in ("masks", "payload_masks"):
        by_file: dict[int, list[bytes]] = {}
        for part in found:
            for file, mask in getattr(part, name).items():
                by_file.setdefault(file, []).append(mask)
        masks[name] = {file: merge_masks(parts).tolist() for file, parts in sorted(by_file.items())}
    ids = {
        name: sorted(value for part in found for value in getattr(part, name).to_pylist())
        for name in ("deleted", "changed", "payload_changed")
    }
    return {
        **masks,
        **ids,
        "quarantine": sorted((row for part in found for row in part.quarantine.to_pylist()), key=str),
        "quarantine_changed": any(part.quarantine_changed for part in found),
        "arrivals": sorted(np.concatenate([part.arrivals for part in found]).tolist()),
        "departures": sorted((row for part in found for row in part.departures.to_pylist()), key=str),
        "counts": dict(sorted(counts.items())),
    }


def publish(state: State, corpus: Corpus, found: RangeDiff, drawn: random.Random) -> State:
    """The epoch that a run makes of a comparison; its workers refuse some documents."""
    names = sorted(corpus.files)
    dropped = set(found.dropped.to_pylist())
    held = {name: hashes for name, hashes in state.documents.items() if name not in dropped}
    quarantine = [row | {"file": names[row["file"]]} for row in found.quarantine.to_pylist()]
    for masks, may_refuse in ((found.masks, True), (found.payload_masks, False)):
        for file, mask in masks.items():
            chosen = set(merge_masks([mask]).tolist())
            for row in corpus.digests[names[file]].to_pylist():
                if row["row"] not in chosen:
                    continue
                place = {"id": row["id"], "file": names[file], "row": row["row"]}
                hashes = {name: row[name] for name in ("content_hash", "payload_hash")}
                if may_refuse and drawn.random() < 0.06:
                    quarantine.append(place | hashes | {"reason": drawn.choice(MODEL)})
                else:
                    held[row["id"]] = (row["content_hash"], row["payload_hash"])
    counts = found.counts
    return State(dict(corpus.digests), held, quarantine, counts["documents"], counts["duplicates"])


def history(seed: int) -> None:
    """Nights of one index; each is compared in both ways."""
    drawn = random.Random(seed)
    corpus = Corpus(drawn)
    for _ in range(5):
        corpus.add()
    nothing = State({}, {}, [], 0, 0)
    states = [publish(nothing, corpus, whole(nothing, corpus), drawn)]
    for night in range(NIGHTS):
        for _ in range(drawn.choice((0, 1, 1, 2, 4))):
            corpus.edit()
        if not corpus.files:
            corpus.add()
        # After a rollback, the published epoch is an earlier one.
        state = drawn.choice(states) if drawn.random() < 0.1 else states[-1]
        all_of_it = whole(state, corpus)
        expected = told([all_of_it], all_of_it.counts)
        found, counts = incremental(state, corpus, drawn.choice(EDGES))
        assert told(found, counts) == expected, (seed, night)
        differs = bool(all_of_it.masks) or len(all_of_it.dropped) > 0 or all_of_it.quarantine_changed
        # A night that changes settings publishes whatever it finds.
        if differs or drawn.random() < 0.3:
            states.append(publish(state, corpus, all_of_it, drawn))


def test_random_histories_are_compared_alike() -> None:
    for seed in range(15):
        history(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 3000, 250))
def test_2000_random_histories_are_compared_alike(first: int) -> None:
    for seed in range(first, first + 250):
        history(seed)
