"""The comparison of what changed gives what the comparison of the whole corpus gives, wherever a run chooses it.

Digests and tables are those of this process; :mod:`tests.indexing.test_histories` has real ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from indexer import schema
from indexer.indexing import changes, diff, file_changes, increment, unreadable_files
from indexer.indexing.diff import RangeDiff, Unreadable
from indexer.indexing.file_changes import FileChanges
from indexer.indexing.increment import Known
from indexer.indexing.layout_change import LayoutChange
from indexer.indexing.unreadable_files import NEVER
from tests.support.both_ways import said
from tests.support.edited_corpus import Corpus

pytestmark = pytest.mark.heavy

MODEL = [reason.value for reason in sorted(diff.FOUND_BY_WORKERS)]

NIGHTS = 8

EDGES: list[list[str]] = [[], ["id-05"], ["id-03", "id-09"], ["", "id-07", "zz"]]


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
        unread: Files that could not be read.
        kept: Documents of such files that stay published.
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
    unread: int = 0
    kept: int = 0


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


def job_of(state: State, corpus: Corpus, epoch: int, rhythm: int) -> Any:
    """What a run would have opened."""
    counts = SimpleNamespace(kept=state.kept, documents=state.rows, duplicates=state.duplicates)
    copies = None if state.copied is None else "copies"
    described = SimpleNamespace(
        files="list", to_retry=state.unread, counts=counts, checked_in_full=state.checked_in_full, copies=copies
    )
    digests = SimpleNamespace(get_list=lambda _: state.digests, names=lambda: {*corpus.tables})
    files = [SimpleNamespace(path=name) for name in corpus.names]
    (before, layout), (now, asked) = state.settings, corpus.settings
    return SimpleNamespace(
        published=SimpleNamespace(description=described),
        change=LayoutChange([f"{layout} to {asked}"] if layout != asked else [], payload=before != now),
        epoch=epoch,
        settings=SimpleNamespace(run=SimpleNamespace(full_check_every=rhythm)),
        store=SimpleNamespace(digests=digests),
        corpus=SimpleNamespace(files=files, digest_name=corpus.digest_name),
    )


def chosen(state: State, corpus: Corpus, epoch: int, rhythm: int) -> FileChanges | None:
    """What a run chooses to look at; ``None`` for all of it."""
    return file_changes.since_published(job_of(state, corpus, epoch, rhythm), corpus.unread)


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
        files.left_out,
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
    nothing = schema.DIGEST_SCHEMA.empty_table()
    digests = [nothing if name in corpus.broken else corpus.table(name) for name in corpus.names]
    columns = [{name: row[name] for name in diff.QUARANTINE_COLUMNS} for row in state.quarantine]
    chosen = pa.schema([schema.QUARANTINE_SCHEMA.field(name) for name in diff.QUARANTINE_COLUMNS])
    left_out = pa.Table.from_pylist(columns, chosen)
    differs = state.settings[0] != corpus.settings[0]
    rows = unreadable_files.left_out(job_of(state, corpus, 0, 1), corpus.unread)
    last = [corpus.tables[name]["id"] for path in corpus.broken if (name := state.digests.get(path, NEVER)) != NEVER]
    ids = pa.chunked_array([chunk for held in last for chunk in held.chunks], pa.string())
    unreadable = Unreadable(rows, ids) if corpus.broken else None
    before = documents(state)
    return diff.compare(digests, before, left_out, None, None, payload_differs=differs, unreadable=unreadable)


def publish(state: State, corpus: Corpus, found: RangeDiff, epoch: int, checked: int) -> State:
    """The epoch that a run makes of a comparison; its workers refuse some documents."""
    drawn = corpus.drawn
    names = corpus.names
    dropped = set(found.dropped.to_pylist())
    held = {name: hashes for name, hashes in state.documents.items() if name not in dropped}
    quarantine = [row | {"file": names[row["file"]]} for row in found.quarantine.to_pylist()]
    for rows, may_refuse in ((found.rows, True), (found.payload_rows, False)):
        for file, numbers in rows.items():
            chosen = set(numbers.tolist())
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
    digests = corpus.digests | {path: state.digests.get(path, NEVER) for path in corpus.broken}
    unread, kept = len(corpus.broken), found.counts["kept"]
    return State(digests, held, quarantine, *counts, corpus.settings, epoch, checked, copied, unread, kept)


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
        is_due = epoch - state.checked_in_full >= rhythm or state.settings[0] != corpus.settings[0]
        was_read = any(state.digests.get(path, NEVER) != NEVER for path in corpus.broken)
        is_told = state.unread == [*state.digests.values()].count(NEVER)
        assert (files is None) == (is_due or was_read or not is_told or state.kept > 0), (seed, night)
        all_of_it = whole(state, corpus)
        if files is not None:
            ours, theirs = incremental(state, corpus, files, drawn.choice(EDGES)), told([all_of_it])
            assert ours == comparable(theirs, ours), (seed, night)
            compared += 1
        differs = bool(all_of_it.rows) or len(all_of_it.dropped) > 0 or all_of_it.quarantine_changed
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
