"""Readers beside nights: processes search one index with many threads while nights publish, prune and roll back.

Every night writes every document anew and says so in a payload column, so that an answer of two epochs shows two
nights. Nothing may fail. ``python -m tests.faults.readers --seconds 300 --processes 4 --threads 8`` prints the counts.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.publishing import history
from indexer.search.published import Published
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.storage.tag_files import retried
from tests.support.fakes import run_here, settings
from tests.support.readers import fake_readers, open_reader

DOCUMENTS = 40

HITS = 8

NIGHTS = 3

READING = "reading-"
"""Beginning of the name of the file that a process of readers makes once it has opened the index."""

STOP = "stop"
"""File that ends the readers."""

IDS = [f"doc-{row:03d}" for row in range(DOCUMENTS)]


def text_of(name: str, night: int) -> str:
    """Text of a document in a night."""
    return f"{name} as it was in night {night}"


def play(root: Path, seconds: float, processes: int, threads: int, seed: int = 0) -> dict[str, int]:
    """Lets readers read while nights pass.

    Args:
        root: An empty folder.
        seconds: How long at least; three nights pass in any case.
        processes: Processes of readers.
        threads: Threads of each.
        seed: Seed of what is drawn.

    Returns:
        What happened, counted; ``errors`` and ``mixed`` must be 0.
    """
    given = settings(root)
    _night(given, 1)
    counts: Counter[str] = Counter(errors=0, mixed=0)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        reading = [pool.submit(_read, str(root), threads, seed + at) for at in range(processes)]
        while len(list(root.glob(f"{READING}*"))) < processes and not any(found.done() for found in reading):
            time.sleep(0.1)
        try:
            counts.update(_pass_nights(given, time.monotonic() + seconds, random.Random(seed)))
        finally:
            (root / STOP).touch()
        for found in reading:
            counts.update(found.result())
    return dict(counts)


def _night(given: Settings, number: int) -> None:
    table = pa.table({"id": IDS, "text": [text_of(name, number) for name in IDS], "kind": [str(number)] * DOCUMENTS})
    path = Path(given.corpus.uri) / "a.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    run_here(given)


def _pass_nights(given: Settings, ends: float, drawn: random.Random) -> Counter[str]:
    """Nights, prunes, rollbacks and other people's clean-ups; each of them at least once."""
    counts: Counter[str] = Counter()
    store = ControlStore(given.index.uri, given.index.name)
    while counts["nights"] < NIGHTS or time.monotonic() < ends:
        counts["nights"] += 1
        _night(given, 1 + counts["nights"])
        is_last = counts["nights"] == NIGHTS
        if is_last or drawn.random() < 0.3:
            history.rollback(given.index.uri, store, drawn.choice(store.epoch_numbers()))
            counts["rollbacks"] += 1
        if is_last or drawn.random() < 0.7:
            counts["pruned"] += history.prune(given.index.uri, store, keep=1).versions
            counts["prunes"] += 1
        if is_last or drawn.random() < 0.3:
            for path in Path(given.index.uri).glob("*.lance"):
                retried(partial(_clean_up, path))
            counts["clean_ups"] += 1
    return counts


def _clean_up(path: Path) -> None:
    lance.dataset(str(path)).cleanup_old_versions(retain_versions=1, error_if_tagged_old_versions=False)


def _read(root: str, threads: int, seed: int) -> Counter[str]:
    """One process of readers, which share one engine and one reader."""
    counts: Counter[str] = Counter()
    with (
        fake_readers(seconds_per_token=1e-5) as engines,
        open_reader(settings(Path(root))) as published,
        ThreadPoolExecutor(threads) as pool,
    ):
        stop = Path(root) / STOP
        (Path(root) / f"{READING}{seed}").touch()
        for found in [pool.submit(_ask, published, stop, seed * 1000 + at) for at in range(threads)]:
            counts.update(found.result())
        counts["refreshes"] += published.refresh()
        counts["engines"] = len(engines)
    return counts


def _ask(published: Published, stop: Path, seed: int) -> Counter[str]:
    """One thread: asks in every way, and moves to the newest epoch now and then."""
    drawn, counts = random.Random(seed), Counter[str]()
    while not (counts.total() and stop.exists()):
        try:
            if drawn.random() < 0.1:
                counts["refreshes"] += published.refresh()
            nights = _nights(published, drawn)
        except Exception as error:  # noqa: BLE001  # counted, and shown
            counts["errors"] += 1
            print(f"{threading.current_thread().name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        counts["answers"] += 1
        counts["mixed"] += len(nights) != 1
    return counts


def _nights(published: Published, drawn: random.Random) -> set[str]:
    """Nights that an answer is from."""
    way, name = drawn.randrange(4), drawn.choice(IDS)
    if way == 0:
        (hits,) = published.search([name], HITS, drawn.choice([96, 384]))
        return {hit.payload["kind"] for hit in hits}
    if way == 1:  # finds in one table and looks up in another
        (hits,) = published.nearest(published.embed([name]), HITS, 96, oversample=3)
        return {hit.payload["kind"] for hit in hits}
    if way == 2:
        return set(published.read(drawn.choice([96, 384]), ["kind"])["kind"].to_pylist())
    return set(published.column(IDS, "kind"))


def main() -> None:
    """Plays and prints the counts; status 1 if something failed."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--seconds", type=float, default=300.0)
    command.add_argument("--processes", type=int, default=4)
    command.add_argument("--threads", type=int, default=8)
    command.add_argument("--seed", type=int, default=0)
    arguments = command.parse_args()
    with tempfile.TemporaryDirectory() as root:
        counts = play(Path(root), arguments.seconds, arguments.processes, arguments.threads, arguments.seed)
    print(json.dumps(counts))
    sys.exit(counts["errors"] + counts["mixed"] > 0)


if __name__ == "__main__":
    main()
