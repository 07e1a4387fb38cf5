"""Nights under fire: drivers of the whole job on real Lance tables, killed, paused, lied to, and what must hold after.

Every driver is a forked process that runs the real job with the fake engine; only Ray is left out, so that a run takes
half a second. ``python -m tests.faults.chaos --kills 2000 --seed 0`` is ``make chaos``.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
from lance import LanceOperation

from indexer.errors import CorpusError, IndexerError
from indexer.indexing import sandbox, worklist
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.tokenizer import text_encoder
from indexer.search.published import open_published
from indexer.settings import Settings
from indexer.storage import commits, filters, tables
from indexer.storage.control import ControlStore
from indexer.storage.records import Intent
from indexer.testing.fakes import FakeEngine
from tests.faults import ways
from tests.support import fakes
from tests.support.checkpoints import tokenizer_only
from tests.support.reading import ReaderHere

DIMENSION = 64

WIDTHS = [64, 32]

SECONDS_TO_SETTLE = 60

RUN_SECONDS = 0.4
"""About what a run takes: kills fall anywhere within."""


STEADY = 15
"""Documents of the file that most nights leave as it is."""

OPENED = 0.3
"""Share of the nights that change it."""

REPEATED = 0.2
"""Share of the nights in which another file has one of its documents too."""


class Broken(AssertionError):
    """Something was lost, doubled, mixed or cannot be read."""


class World:
    """An index, the corpus of tonight, and the drivers that work on it."""

    def __init__(self, root: Path, seed: int, fault: str | None = None) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.fault = fault
        self.texts: dict[str, str] = {}
        self.steady: set[str] = set()
        self.night = 0
        self.drivers: list[int] = []
        self.counts = dict.fromkeys(("kills", "pauses", "runs", "refused", "crashed", "nights", "epochs"), 0)
        self.seen: dict[str, str] = {}
        self._model = tokenizer_only(root, DIMENSION)
        text_encoder(self._model)  # drivers inherit it

    @property
    def settings(self) -> Settings:
        return fakes.settings(
            self.root,
            model={"name": self._model},
            index={"widths": WIDTHS},
            run={"shard_mb": 0.0004},
            gates={"max_removed": 1.0, "max_quarantined": 1.0},
        )

    def next_night(self) -> None:
        """Some documents are new, some or all changed, some gone, one is unusable; files are replaced one by one."""
        self.night += 1
        self.counts["nights"] += 1
        opened = self.night == 1 or self.random.random() < OPENED
        loose = sorted(name for name in self.texts if opened or name not in self.steady)
        self.random.shuffle(loose)
        for name in [loose.pop() for _ in range(min(3, len(loose)))]:
            del self.texts[name]
        for name in loose if self.random.random() < 0.1 else loose[:3]:
            self.texts[name] = f"changed in night {self.night}: {name} {self.random.random()}"
        if loose:
            self.texts[f"moved-{self.night:04d}"] = self.texts.pop(self.random.choice(loose))
        for number in range(4 if self.night > 1 else 40):
            self.texts[f"n{self.night:04d}-{number}"] = f"new in night {self.night}: {self.random.random()}"
        if opened:
            self.steady = set(self.random.sample(sorted(self.texts), STEADY))
        repeated = self.random.sample(sorted(self.steady), int(self.random.random() < REPEATED))
        rows = [(name, text) for name, text in self.texts.items() if name not in self.steady or name in repeated]
        rows.append((f"empty-{self.night}", " "))
        self.random.shuffle(rows)
        steady = [(name, self.texts[name]) for name in sorted(self.steady)]
        for part, held in enumerate([rows[::2], rows[1::2], *([steady] if opened else [])]):
            fakes.write(self.root / "next.parquet", held)
            (self.root / "corpus").mkdir(exist_ok=True)
            (self.root / "next.parquet").rename(self.root / "corpus" / f"{part}.parquet")

    def _note(self, way: str) -> None:
        """A driver says what it did in which way; it may be killed next."""
        with (self.root / "ways").open("a") as noted:
            noted.write(f"{way}\n")

    @property
    def ways(self) -> Counter[str]:
        """How often the drivers went every way."""
        return Counter((self.root / "ways").read_text().splitlines())

    def start(self, prepare: Callable[[], None] = lambda: None) -> int:
        """Forks a driver."""
        self.counts["runs"] += 1
        process = os.fork()
        if process:
            self.drivers.append(process)
            return process
        self._drive(prepare)
        raise SystemExit  # never reached

    def _drive(self, prepare: Callable[[], None]) -> None:
        code = 1
        with (self.root / "log").open("a") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
            try:
                sandbox._start = ReaderHere  # type: ignore[assignment]
                ways.install(self._note)
                worklist.SMALLEST_SHARD = worklist.FEWEST_DOCUMENTS = 1
                FAULTS[self.fault]()
                prepare()
                fakes.run_here(self.settings)
                code = 0
            except IndexerError as error:
                log.write(f"{type(error).__name__}: {error}\n")
                code = 2 if isinstance(error, CorpusError) else 3
            except BaseException:  # noqa: BLE001  # whatever it is, the parent must see it
                traceback.print_exc(file=log)
            finally:
                log.flush()
                os._exit(code)

    def wait(self, process: int) -> int:
        """Status of a driver that ends by itself or has been killed."""
        self.drivers.remove(process)
        deadline = time.monotonic() + SECONDS_TO_SETTLE
        while time.monotonic() < deadline:
            status = self._ended(process)
            if status is not None:
                return status
            time.sleep(0.005)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise Broken(f"a driver hangs: {self.log()}")

    def _ended(self, process: int) -> int | None:
        ended, status = os.waitpid(process, os.WNOHANG)
        if not ended:
            return None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        self.counts["refused"] += code > 1
        self.counts["crashed"] += code == 1
        return status

    def reap(self) -> None:
        """Forgets the drivers that have ended by themselves."""
        self.drivers = [process for process in self.drivers if self._ended(process) is None]

    def settle(self) -> None:
        """The remaining drivers end; then one alone must bring the index up to date."""
        for process in list(self.drivers):
            self.wait(process)
        status = self.wait(self.start())
        if status:
            raise Broken(f"a driver alone ends with {status}: {self.log()}")
        self.verify()

    def verify(self) -> None:
        """Everything that must hold, looked at by a fork: Lance must not have run in what drivers are forked from."""
        old = self.random.random()
        reading, writing = os.pipe()
        process = os.fork()
        if not process:
            try:
                found: list[Any] = ["", *self._verified(random.Random(old))]
            except BaseException as error:  # noqa: BLE001  # whatever it is, the parent must see it
                found = [f"{type(error).__name__}: {error}"]
            with os.fdopen(writing, "w") as pipe:
                json.dump(found, pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            broken, *found = json.load(pipe)
        os.waitpid(process, 0)
        if broken:
            raise Broken(broken)
        self.counts["epochs"] = found[0]
        for number, content in found[1].items():
            if self.seen.setdefault(number, content) != content:
                raise Broken(f"epoch {number} is no longer what it was")

    def _verified(self, drawn: random.Random) -> tuple[int, dict[str, str]]:
        """Number of epochs, and the content of some."""
        store = ControlStore(self.settings.index.uri, "docs")
        numbers = store.epoch_numbers()
        published = open_published(self.settings.index.uri, "docs")
        names = sorted(self.texts)
        ids = EmbedTokenizer(self._model, 128).documents([self.texts[name] for name in names]).ids
        vectors = FakeEngine(DIMENSION).embed(ids)
        for width in WIDTHS:
            table = published.read(width, ["id", "vector"]).sort_by("id")
            found = table["id"].to_pylist()
            if found != names:
                lacks, more = sorted({*names} - {*found}), sorted({*found} - {*names})
                said = f"lacks {lacks}, has {more} too, {len(found)} rows for {len(names)} ids"
                raise Broken(f"epoch {published.epoch.number}, width {width}: {said}")
            prefix = vectors[:, :width]
            exact = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
            if not np.allclose(tables.to_matrix(table["vector"]), exact, atol=1e-6):
                raise Broken(f"epoch {published.epoch.number}, width {width}: other vectors")
        quarantined = published.quarantine()["id"].to_pylist()
        if quarantined != [f"empty-{self.night}"]:
            raise Broken(f"epoch {published.epoch.number}: quarantine is {quarantined}")
        looked_at = {numbers[-1], *drawn.sample(numbers, min(2, len(numbers)))}
        return len(numbers), {str(number): self._content(number) for number in looked_at}

    def _content(self, number: int) -> str:
        """Ids of an old epoch, which must be the same in every width."""
        published = open_published(self.settings.index.uri, "docs", epoch=number)
        ids = [published.read(width, ["id"])["id"].to_pylist() for width in WIDTHS]
        if sorted(ids[0]) != sorted(ids[1]) or len(set(ids[0])) != len(ids[0]):
            raise Broken(f"epoch {number}: widths differ or an id is doubled")
        return json.dumps(sorted(ids[0]))

    def log(self) -> str:
        return " | ".join((self.root / "log").read_text().splitlines()[-2:])

    def end(self) -> None:
        for process in list(self.drivers):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        self.drivers.clear()


def _append_instead_of_commit() -> None:
    """Check, then delete and append: what a commit would be without compare and swap."""

    def commit(uri: str, name: str, change: commits.Change) -> int:
        dataset = lance.dataset(f"{uri}/{name}.lance")
        if tables.epoch_of(dataset) == change.epoch:
            return int(dataset.version)
        if change.dropped is None:
            dataset.delete("true")
        elif len(change.dropped):
            dataset.delete(filters.one_of("id", change.dropped.to_pylist()))
        append = LanceOperation.Append([commits._fragment(described) for described in change.added])
        dataset = lance.LanceDataset.commit(f"{uri}/{name}.lance", append, read_version=dataset.version)
        dataset.replace_schema_metadata(commits._metadata(change))
        return int(lance.dataset(f"{uri}/{name}.lance").version)

    commits.commit = commit
    commits.holds = lambda *_: True  # type: ignore[assignment]


def _no_intent() -> None:
    """Whoever comes later does not know what was begun."""

    def put_intent(_: ControlStore, intent: Intent) -> Intent:
        return intent

    ControlStore.put_intent = put_intent  # type: ignore[method-assign]
    ControlStore.pending_intent = lambda _: None  # type: ignore[method-assign]


FAULTS: dict[str | None, Callable[[], None]] = {
    None: lambda: None,
    "append": _append_instead_of_commit,
    "no_intent": _no_intent,
}


def storm(root: Path, kills: int, seed: int, fault: str | None = None, seconds: float = 3600.0) -> dict[str, int]:
    """Nights with one to four drivers, killed and paused at random, until there were so many kills.

    Args:
        root: Empty folder.
        kills: SIGKILLs that hit a living driver.
        seed: Seed of everything that is drawn.
        fault: A mechanism to take away.
        seconds: Most time to spend.

    Returns:
        What happened, counted.

    Raises:
        Broken: What must hold does not; its text has the counts.
    """
    world = World(root, seed, fault)
    deadline = time.monotonic() + seconds
    try:
        while world.counts["kills"] < kills and time.monotonic() < deadline:
            _night(world)
    except Broken as broken:
        raise Broken(f"{broken} {world.counts}") from None
    finally:
        world.end()
    return world.counts | world.ways


def _night(world: World) -> None:
    world.next_night()
    drawn = world.random
    paused = None
    for _ in range(drawn.randint(2, 8)):
        while len(world.drivers) < drawn.randint(1, 4):
            world.start()
        time.sleep(drawn.random() * RUN_SECONDS)
        world.reap()
        if paused is None and world.drivers and drawn.random() < 0.2:
            paused = drawn.choice(world.drivers)
            with contextlib.suppress(ProcessLookupError):
                os.kill(paused, signal.SIGSTOP)
                world.counts["pauses"] += 1
        elif drawn.random() < 0.25:
            world.next_night()
        victims = [process for process in world.drivers if process != paused]
        if victims:
            victim = drawn.choice(victims)
            os.kill(victim, signal.SIGKILL)
            world.counts["kills"] += os.WIFSIGNALED(world.wait(victim))
    if paused in world.drivers:
        world.drivers.remove(paused)
        world.settle()
        os.kill(paused, signal.SIGCONT)
        world.drivers.append(paused)
    world.settle()


def main() -> None:
    """Storms and prints the counts."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--kills", type=int, default=2000)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--fault", choices=[fault for fault in FAULTS if fault])
    arguments = command.parse_args()
    warnings.simplefilter("ignore")  # of forks; nothing of Lance has run when they happen
    with tempfile.TemporaryDirectory() as root:
        print(json.dumps(storm(Path(root), arguments.kills, arguments.seed, arguments.fault)))


if __name__ == "__main__":
    main()
