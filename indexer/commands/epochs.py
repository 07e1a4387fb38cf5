"""Look at the runs and published epochs of an index, return to one, or delete what old ones hold.

list: the published epochs. runs: every run, also those that were refused or failed, with its report. show EPOCH: all
that is known of one. diff EPOCH EPOCH: what differs between two. verify: read every key of the latest epoch's tables
and check them; runs check what changed, and every run.full_check_every epochs all. rollback EPOCH: publish its tables
again as a new epoch; runs are refused until resume. prune: keep the last epochs and free the rest. Exit status: 0 done,
1 failed, 2 unusable settings, 3 refused.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from indexer.commands.command import command_line, load
from indexer.commands.tables import Cell, print_table
from indexer.errors import IndexerError, SettingsError
from indexer.progress import say
from indexer.publishing import compare, history, verify
from indexer.reporting.page import headline
from indexer.reporting.runs import NIGHTS, RunReports
from indexer.settings import Settings
from indexer.storage.control import ControlStore

KEPT = 7
"""Epochs that prune keeps by default: a week of nights."""

MEGABYTE = 1e6


def main() -> None:
    """Looks, returns or deletes."""
    command = command_line(__doc__ or "")
    command.add_argument("action", choices=list(ACTIONS))
    command.add_argument("epoch", nargs="*", type=int, help="for show, rollback and, twice, diff")
    command.add_argument("--keep", type=int, default=KEPT, help=f"for prune: epochs to keep (default {KEPT})")
    command.add_argument("--last", type=int, default=NIGHTS, help=f"for list and runs: how many (default {NIGHTS})")
    command.add_argument("--json", action="store_true", help="for list, runs and diff: print JSON instead of tables")
    command.add_argument(
        "--hold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="for rollback: refuse runs until resume (default), or let the next run go on",
    )
    settings, arguments = load(Settings, command)
    store = ControlStore(settings.index.uri, settings.index.name)
    needed = EPOCHS.get(arguments.action, 0)
    if len(arguments.epoch) != needed:
        numbers = {0: "no number of an epoch", 1: "the number of an epoch", 2: "the numbers of two epochs"}[needed]
        raise SettingsError(f"{arguments.action} needs {numbers}; list prints them")
    if arguments.keep < 1:
        raise SettingsError("--keep must be at least 1: the latest epoch stays")
    if arguments.last < 1:
        raise SettingsError("--last must be at least 1")
    ACTIONS[arguments.action](settings, store, arguments)


def _list(settings: Settings, store: ControlStore, arguments: argparse.Namespace) -> None:
    """The published epochs, oldest first."""
    if not store.epoch_numbers():
        raise SettingsError(f"no epoch of index {settings.index.name!r} is published at index.uri; check both")
    found = history.epochs(store, arguments.last)
    if arguments.json:
        for epoch in found:
            print(json.dumps(epoch))
        return
    names = ("documents", "new", "changed", "deleted", "indexed", "quarantined", "tokens_per_second")
    rows: list[list[Cell]] = [
        [
            *(epoch["epoch"], epoch["published"]),
            *(epoch[name] for name in names),
            round(sum(epoch["bytes"].values()) / MEGABYTE, 1),
            _note(epoch),
        ]
        for epoch in found
    ]
    print_table(["epoch", "published", *names[:-1], "tokens/s", "MB", ""], rows)


def _note(epoch: dict[str, Any]) -> str:
    """What is special about an epoch."""
    notes = [f"generation {epoch['generation']}"] if epoch["generation"] > 1 else []
    notes += [f"rollback to {epoch['rollback_of']}"] if epoch["rollback_of"] is not None else []
    return ", ".join([*notes, *(["held: runs are refused until resume"] if epoch["held"] else [])])


def _runs(settings: Settings, _: ControlStore, arguments: argparse.Namespace) -> None:
    """Every run, oldest first."""
    reports = RunReports(settings.index.uri, settings.index.name)
    found = reports.latest(arguments.last)
    if not found:
        raise SettingsError(f"no run of index {settings.index.name!r} has left a report at index.uri; check both")
    if arguments.json:
        for report in found:
            print(json.dumps(report.model_dump() | {"report": reports.page_of(report)}))
        return
    names = ("documents", "indexed", "quarantined", "tokens", "tokens_per_second")
    rows: list[list[Cell]] = [
        [
            *(report.began[:19], headline(report)),
            *(report.summary[name] for name in names),
            *(round(report.seconds, 1), report.cost.gpu_hours, report.cost.money, report.summary["error"]),
        ]
        for report in found
    ]
    marked = [at for at, report in enumerate(found) if report.summary["error"]]
    columns = ["began", "how it ended", *names[:-1], "tokens/s", "seconds", "GPU-hours", "money", "error"]
    print_table(columns, rows, marked)
    print(f"\nreport of the last run: {reports.page_of(found[-1])}")


def _show(_: Settings, store: ControlStore, arguments: argparse.Namespace) -> None:
    """The whole record of an epoch."""
    print(history.show(store, arguments.epoch[0]).to_json(indent=2))


def _diff(settings: Settings, store: ControlStore, arguments: argparse.Namespace) -> None:
    """What differs between two epochs."""
    found = compare.compare(settings.index.uri, store, *arguments.epoch)
    if arguments.json:
        print(json.dumps(found))
        return
    before, after = found.pop("epochs")
    counts = found.pop("documents")
    known = "not known: a version is gone" if counts["added"] is None else None
    rows: list[list[Cell]] = [["documents", "in all", counts["before"] if known is None else known, counts["after"]]]
    rows += [["documents", name, None, counts[name]] for name in ("added", "removed", "changed") if known is None]
    for kind, pairs in found.items():
        rows += [[kind.replace("_", " "), name, *map(_value, values)] for name, values in pairs.items()]
    print_table(["", "", f"epoch {before}", f"epoch {after}"], rows)


def _value(value: Any) -> Cell:
    """A value of a setting as a cell."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _verify(settings: Settings, store: ControlStore, _: argparse.Namespace) -> None:
    """Checks the latest epoch's tables in full."""
    latest = store.latest_epoch()
    if latest is None:
        raise SettingsError(f"no epoch of index {settings.index.name!r} is published at index.uri; check both")
    found = verify.verify(settings.index.uri, store, latest)
    print(json.dumps(found))
    if found["unchecked"]:
        say(f"epoch {latest.number}, not compared with its record: {'; '.join(found['unchecked'])}")
    if found["wrong"]:
        raise IndexerError(
            f"epoch {latest.number}: {'; '.join(found['wrong'])}: return to an epoch that holds with jobs.publish "
            "rollback, or build a new generation with jobs.index --rebuild always"
        )


def _rollback(settings: Settings, store: ControlStore, arguments: argparse.Namespace) -> None:
    """Publishes an old epoch's tables again."""
    (number,) = arguments.epoch
    published = history.rollback(settings.index.uri, store, number, hold=arguments.hold)
    print(json.dumps({"epoch": published.number, "rollback_of": number, "held": arguments.hold}))


def _resume(_: Settings, store: ControlStore, __: argparse.Namespace) -> None:
    """Ends the hold of a rollback."""
    print(json.dumps({"epoch": history.resume(store).number, "held": False}))


def _prune(settings: Settings, store: ControlStore, arguments: argparse.Namespace) -> None:
    """Deletes everything that only older epochs need."""
    print(json.dumps(dataclasses.asdict(history.prune(settings.index.uri, store, arguments.keep))))


ACTIONS: dict[str, Callable[[Settings, ControlStore, argparse.Namespace], None]] = {
    "list": _list,
    "runs": _runs,
    "show": _show,
    "diff": _diff,
    "verify": _verify,
    "rollback": _rollback,
    "resume": _resume,
    "prune": _prune,
}
"""What each action does and prints."""

EPOCHS = {"show": 1, "rollback": 1, "diff": 2}
"""Numbers of epochs that an action needs, if any."""
