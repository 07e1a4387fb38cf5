"""Look at the published epochs of an index, return to one, or delete what old ones hold.

list: one JSON line per epoch. show EPOCH: all that is known of one. rollback EPOCH: publish its tables again as a new
epoch. prune: keep the last epochs and free the rest. Exit status: 0 done, 1 failed, 2 unusable settings, 3 refused.
"""

import dataclasses
import json

from indexer.commands.command import command_line, load
from indexer.errors import SettingsError
from indexer.publishing import history
from indexer.settings import Settings
from indexer.storage.control import ControlStore

KEPT = 7
"""A week of nights."""


def main() -> None:
    """Looks, returns or deletes."""
    command = command_line(__doc__ or "")
    command.add_argument("action", choices=["list", "show", "rollback", "prune"])
    command.add_argument("epoch", nargs="?", type=int, help="for show and rollback")
    command.add_argument("--keep", type=int, default=KEPT, help=f"for prune: epochs to keep (default {KEPT})")
    settings, arguments = load(Settings, command)
    store = ControlStore(settings.index.uri, settings.index.name)
    if arguments.action in {"show", "rollback"} and arguments.epoch is None:
        raise SettingsError(f"{arguments.action} needs the number of an epoch; list prints them")
    if arguments.keep < 1:
        raise SettingsError("--keep must be at least 1: the latest epoch stays")
    if arguments.action == "list":
        for epoch in history.epochs(store):
            print(json.dumps(epoch))
    elif arguments.action == "show":
        print(history.show(store, arguments.epoch).to_json(indent=2))
    elif arguments.action == "rollback":
        published = history.rollback(settings.index.uri, store, arguments.epoch)
        print(json.dumps({"epoch": published.number, "rollback_of": arguments.epoch}))
    else:
        print(json.dumps(dataclasses.asdict(history.prune(settings.index.uri, store, arguments.keep))))
