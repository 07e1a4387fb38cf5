"""Exactly once, whatever is killed: every durable step fails in every way, and nights under random kills."""

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.chaos import World
from tests.faults.failpoints import ACTIONS, POINTS, failpoint
from tests.faults.mendings import TAKEN_BACK
from tests.faults.ways import BY_CHANGES

ROOT = Path(__file__).parents[2]

MANY = 50
"""Kills among which runs surely do their work in every way."""


def storm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: drivers are forked, which only one without Lance's threads can do."""
    command = [sys.executable, "-m", "tests.faults.chaos", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=560, check=False)


def run_tester(operations: int, seed: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Likewise a process of its own, for what the tester wraps."""
    command = [sys.executable, "-m", "tests.faults.tester", "--ops", str(operations), "--seed", str(seed), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)


@pytest.mark.parametrize("operations", [150, pytest.param(500, marks=pytest.mark.slow)])
def test_random_operations_lose_double_and_mix_nothing(operations: int) -> None:
    done = run_tester(operations, 1)
    assert done.returncode == 0, done.stdout
    print(done.stdout)
    assert min(json.loads(done.stdout)[way] for way in BY_CHANGES) > 0


@pytest.mark.slow
@pytest.mark.parametrize("mending", sorted(TAKEN_BACK))
def test_a_mending_that_is_taken_back_is_found(mending: str) -> None:
    done = run_tester(2000, 0, "--without", mending)
    print(done.stdout)
    assert done.returncode == 1
    assert "again with:" in done.stdout


@pytest.mark.parametrize("kills", [5, pytest.param(300, marks=pytest.mark.slow)])
def test_kills_lose_and_double_nothing(kills: int) -> None:
    done = storm("--kills", str(kills), "--seed", "1")
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["crashed"] == 0
    assert min(counts.get(way, 0) for way in BY_CHANGES) > 0 or kills < MANY


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        "append",
        # A commit names its intent, and what another one made is committed again: 200 kills showed nothing.
        pytest.param(
            "no_intent", marks=pytest.mark.xfail(reason="survived: nothing is lost without the intent's file")
        ),
    ],
)
def test_the_storm_has_teeth(fault: str) -> None:
    """Without the one commit, 200 kills show it."""
    done = storm("--kills", "200", "--seed", "0", "--fault", fault)
    (said,) = done.stderr.splitlines()[-1:]
    print(said)
    assert done.returncode == 1
    assert said.startswith("Broken: "), "another error shows nothing: a BrokenPipeError is one"


def matrix(root: Path, seed: int, every: int) -> int:
    """Durable steps fail in every way, with none to three drivers beside; each time a night must settle.

    Args:
        root: Folder of the index.
        seed: Seed of what is drawn.
        every: 1 for all pairs of a step and a way, 3 for each third one.

    Returns:
        Number of pairs.

    Raises:
        AssertionError: No run did its work by what changed alone.
    """
    drawn = random.Random(seed)
    world = World(root, seed)
    pairs = list(itertools.product(POINTS, ACTIONS))[::every]
    try:
        world.next_night()
        world.settle()
        for point, action in pairs:
            _fail_once(world, failpoint(point, action, drawn.randint(1, 2)), action, drawn.randint(0, 3))
    finally:
        world.end()
    assert min(world.ways[way] for way in BY_CHANGES) > 0, world.ways
    return len(pairs)


def _fail_once(world: World, prepare: object, action: str, others: int) -> None:
    world.next_night()
    failing = world.start(prepare)  # type: ignore[arg-type]
    for _ in range(others):
        world.start()
    if action != "pause":
        world.wait(failing)
        if others % 2:
            world.next_night()  # what was begun is of another corpus than what comes
        world.settle()
        return
    world.drivers.remove(failing)
    os.waitid(os.P_PID, failing, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    world.settle()
    world.next_night()
    world.settle()
    os.kill(failing, signal.SIGCONT)
    world.drivers.append(failing)
    world.settle()


@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_every_durable_step_may_fail_in_every_way(tmp_path: Path, every: int) -> None:
    assert math.gcd(every, len(ACTIONS)) == 1, "one way would never be tried"
    code = "import pathlib, sys, tests.faults.test_chaos as t; print(t.matrix(pathlib.Path(sys.argv[1]), 2, EVERY))"
    command = [sys.executable, "-W", "ignore", "-c", code.replace("EVERY", str(every)), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=560, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == -(-len(POINTS) * len(ACTIONS) // every)
