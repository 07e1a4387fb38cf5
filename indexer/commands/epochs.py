"""Look at the published epochs of an index, return to one, or delete what old ones hold.

list: one JSON line per epoch. show EPOCH: all that is known of one. rollback EPOCH: publish its tables again as a new
epoch; runs are refused until resume. prune: keep the last epochs and free the rest. Exit status: 0 done, 1 failed, 2
unusable settings, 3 refused.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator

from indexer.commands.command import command_line, load
from indexer.errors import SettingsError
from indexer.publishing import history
from indexer.settings import Settings
from indexer.storage.control import ControlStore

KEPT = 7
"""Epochs that prune keeps by default: a week of nights."""


def main() -> None:
    """Looks, returns or deletes."""
    command = command_line(__doc__ or "")
    command.add_argument("action", choices=list(ACTIONS))
    command.add_argument("epoch", nargs="?", type=int, help="for show and rollback")
    command.add_argument("--keep", type=int, default=KEPT, help=f"for prune: epochs to keep (default {KEPT})")
    command.add_argument(
        "--hold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="for rollback: refuse runs until resume (default), or let the next run go on",
    )
    settings, arguments = load(Settings, command)
    store = ControlStore(settings.index.uri, settings.index.name)
    if arguments.action in {"show", "rollback"} and arguments.epoch is None:
        raise SettingsError(f"{arguments.action} needs the number of an epoch; list prints them")
    if arguments.keep < 1:
        raise SettingsError("--keep must be at least 1: the latest epoch stays")
    for line in ACTIONS[arguments.action](settings, store, arguments):
        print(line)


def _list(settings: Settings, store: ControlStore, _: argparse.Namespace) -> Iterator[str]:
    """One JSON line per published epoch."""
    if not store.epoch_numbers():
        raise SettingsError(f"no epoch of index {settings.index.name!r} is published at index.uri; check both")
    yield from (json.dumps(epoch) for epoch in history.epochs(store))


def _show(_: Settings, store: ControlStore, arguments: argparse.Namespace) -> Iterator[str]:
    """The whole record of an epoch."""
    yield history.show(store, arguments.epoch).to_json(indent=2)


def _rollback(settings: Settings, store: ControlStore, arguments: argparse.Namespace) -> Iterator[str]:
    """Publishes an old epoch's tables again."""
    published = history.rollback(settings.index.uri, store, arguments.epoch, hold=arguments.hold)
    yield json.dumps({"epoch": published.number, "rollback_of": arguments.epoch, "held": arguments.hold})


def _resume(_: Settings, store: ControlStore, __: argparse.Namespace) -> Iterator[str]:
    """Ends the hold of a rollback."""
    yield json.dumps({"epoch": history.resume(store).number, "held": False})


def _prune(settings: Settings, store: ControlStore, arguments: argparse.Namespace) -> Iterator[str]:
    """Deletes everything that only older epochs need."""
    yield json.dumps(dataclasses.asdict(history.prune(settings.index.uri, store, arguments.keep)))


Action = Callable[[Settings, ControlStore, argparse.Namespace], Iterator[str]]

ACTIONS: dict[str, Action] = {
    "list": _list,
    "show": _show,
    "rollback": _rollback,
    "resume": _resume,
    "prune": _prune,
}
"""What each action does and prints."""
