"""A run with the fake engine as a command of its own, with its own Ray: ``python -m tests.support.drive ROOT [JSON]``.

Tests send it signals, fill its disk and search its output for secrets. It ends like ``jobs.index``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from indexer.commands.entry import execute
from indexer.settings import Settings
from tests.support import fakes

ROOT = Path(__file__).parents[2]


def command(root: Path, sections: dict[str, dict[str, object]] | None = None, **faults: object) -> list[str]:
    """The command line for settings of :func:`tests.support.fakes.settings` and faults of the engine."""
    return [
        sys.executable,
        "-m",
        "tests.support.drive",
        str(root),
        json.dumps({"sections": sections or {}, "faults": faults}),
    ]


def ended(
    root: Path, sections: dict[str, dict[str, object]] | None = None, **faults: object
) -> subprocess.CompletedProcess[str]:
    """Such a run, when it has ended."""
    line = command(root, sections, **faults)
    return subprocess.run(line, cwd=ROOT, env=_alone(), capture_output=True, text=True, timeout=240, check=False)


def begun(root: Path, sections: dict[str, dict[str, object]]) -> subprocess.Popen[str]:
    """A run of half a second a shard, which is still at work when something happens to it."""
    return subprocess.Popen(
        command(root, sections, seconds_per_token=0.003),
        cwd=ROOT,
        env=_alone(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _alone() -> dict[str, str]:
    """An environment that names no Ray."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def _settings(root: Path, sections: dict[str, dict[str, object]]) -> Settings:
    """Settings with a Ray of the process's own."""
    return fakes.settings(root, **{"cluster": {"address": "local"}, **sections})


def main() -> None:
    """Indexes and prints the summary."""
    root, described = Path(sys.argv[1]), json.loads(sys.argv[2])
    print(json.dumps(fakes.run(_settings(root, described["sections"]), **described["faults"])))


if __name__ == "__main__":
    execute(main)
