"""A random tester: an index and its corpus, everything that may happen to them, and what must hold after each.

A world is one index folder that lives for some operations; runs are those of the job, on real Lance tables, with the
fake engine and without Ray. Everything is drawn by seed: ``python -m tests.faults.tester --ops 20000 --seed 0`` is
``make chaos``, and ``--world N`` plays one world again.
"""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from indexer.indexing import sandbox, worklist
from tests.faults import index_model, steps, ways
from tests.faults.corpus_model import Setup
from tests.faults.epoch_content import Broken
from tests.faults.index_model import SEARCHED, STORED
from tests.faults.mendings import TAKEN_BACK
from tests.faults.operations import OPERATIONS, World
from tests.support.checkpoints import tokenizer_only
from tests.support.reading import ReaderHere

MOST_SECONDS = 120
"""Seconds that an operation may take, on the slowest machine, before it counts as one that never ends."""

LIFETIME = 60
"""Operations of a world: few enough to be read when one ends badly."""


ENOUGH = 500
"""Operations among which there is every way of doing a run's work."""

WAYS: Counter[str] = Counter()
"""How often runs of this process went every way."""


def _hangs(*_: object) -> None:
    raise Broken(f"it takes more than {MOST_SECONDS} s")


def prepare(without: str | None = None) -> None:
    """Makes runs quick, and every durable step of them one at which something can happen. Once per process."""
    signal.signal(signal.SIGALRM, _hangs)
    sandbox._start = ReaderHere  # type: ignore[assignment]
    worklist.SMALLEST_SHARD = worklist.FEWEST_DOCUMENTS = 1
    if without:
        TAKEN_BACK[without]()
    steps.install()
    ways.install(lambda way: WAYS.update([way]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Runs say on standard error what they do: nobody reads it here."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def play(root: Path, seed: str, operations: int, counts: Counter[str], begin: Setup) -> list[str]:
    """One world, from nothing.

    Args:
        root: Empty folder.
        seed: Seed of everything that is drawn.
        operations: How many.
        counts: Counts what was done.
        begin: The settings that the indices begin with.

    Returns:
        What happened, up to what must not; the last line is an error then.
    """
    path = tokenizer_only(root, index_model.DIMENSION)
    index_model.use_model(path)
    world = World(root, seed, path, begin)
    chosen, weights = list(OPERATIONS), list(OPERATIONS.values())
    for _ in range(operations):
        (operation,) = world.random.choices(chosen, weights)
        world.history.append(operation.__name__)
        signal.alarm(MOST_SECONDS)
        try:
            with _quiet():
                world.history[-1] += f": {operation(world)}"
                world.check()
        except Exception:  # noqa: BLE001  # a traceback of a run is what this looks for
            return [*world.history, traceback.format_exc()]
        counts[operation.__name__] += 1
    return []


def chaos(operations: int, seed: int, first: int = 0, *, plain: bool = False) -> tuple[Counter[str], list[str]]:
    """Worlds until there were so many operations, or until something is broken.

    Every other world can be searched. The payload stands once or is copied in turn; plain worlds have copies alone.

    Returns:
        What was done, counted, and the history of the world that broke.
    """
    counts: Counter[str] = Counter()
    world = first
    while (left := operations - counts.total()) > 0:
        begin = Setup(**SEARCHED if world % 2 and not plain else {}, stored="copies" if plain else STORED[world % 3])
        with tempfile.TemporaryDirectory(prefix="chaos-") as root:
            history = play(Path(root), f"{seed}-{world}", min(LIFETIME, left), counts, begin)
        if history:
            again = f"python -m tests.faults.tester --seed {seed} --world {world} --ops {LIFETIME}"
            return counts, [*history, f"after {counts.total()} operations; again with: {again}"]
        world += 1
        print(f"world {world - 1}: {counts.total()} operations", file=sys.stderr, flush=True)
    return counts, []


def main() -> None:
    """Plays, and prints what was done or what broke."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--ops", type=int, default=20_000)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--without", choices=list(TAKEN_BACK), help="a mending to take back")
    command.add_argument("--world", type=int, default=0, help="the first world; worlds follow each other")
    arguments = command.parse_args()
    prepare(arguments.without)
    started = time.monotonic()
    # The seeds that find what is taken back are those of worlds without search.
    plain = arguments.without is not None
    counts, history = chaos(arguments.ops, arguments.seed, arguments.world, plain=plain)
    missing = [way for way in ways.BY_CHANGES if not WAYS[way]] if counts.total() >= ENOUGH else []
    history += [f"never {way}: {dict(WAYS)}" for way in missing]
    for number, line in enumerate(history):
        print(number, line)
    print(json.dumps({"seed": arguments.seed, "seconds": round(time.monotonic() - started), **counts, **WAYS}))
    sys.stdout.flush()
    os._exit(bool(history))  # Lance's threads need not end first


if __name__ == "__main__":
    main()
