"""A plugin of pytest that tells of every failure at once, and notes in a file what became of every test.

A run that is killed prints none of its failures otherwise. ``-p benchmarks.support.outcomes``, with xdist, and the file
in the environment as :data:`FILE`.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FILE = "TEST_OUTCOMES"

UNENDED = "unended"
"""What became of a test that nothing has been heard of, or only its beginning."""


def pytest_configure(config: pytest.Config) -> None:
    """Watches in the process that hears of all tests."""
    if not hasattr(config, "workerinput"):  # xdist's own variables also reach a run that a test starts
        config.pluginmanager.register(_Watch(config, Path(os.environ[FILE])))


def read(file: Path) -> dict[str, list[str]]:
    """Names of the tests by what became of them: ``passed``, ``failed``, ``skipped``, ``unended``.

    Args:
        file: The file, which may be missing.
    """
    found: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        name, outcome = json.loads(line)
        if name not in found.get("failed", []):
            for others in found.values():
                others[:] = [other for other in others if other != name]
            found.setdefault(outcome, []).append(name)
    return {outcome: names for outcome, names in found.items() if names}


class _Watch:
    """Hears of every test."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._config, self._file = config, file
        self._is_known = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Every process of xdist finds the same tests."""
        if not self._is_known:
            self._is_known = True
            for name in ids:
                self._note(name, UNENDED)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's preparation, call or end."""
        if report.failed:
            terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
            terminal.write_line(f"\n{report.when} of {report.nodeid}:\n{report.longreprtext}")
            terminal.flush()
        if report.failed or report.skipped or report.when == "call":
            self._note(report.nodeid, report.outcome)

    def _note(self, name: str, outcome: str) -> None:
        """Adds a line."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([name, outcome]) + "\n")
