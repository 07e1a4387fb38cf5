"""Plays a demonstration: ``python -m jobs.demo quickstart`` or ``python -m jobs.demo nights``, then its own flags."""

import importlib
import sys

from indexer.commands.entry import execute
from indexer.errors import SettingsError

DEMONSTRATIONS = ("quickstart", "nights")


def main() -> None:
    """Plays the demonstration that the command line names.

    Raises:
        SettingsError: It names another one.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in {"-h", "--help"}:
        print(__doc__)
    elif name in DEMONSTRATIONS:
        # argparse names the command after the first word.
        sys.argv = [f"jobs.demo {name}", *sys.argv[2:]]
        importlib.import_module(f"jobs.demo.{name}").main()
    else:
        raise SettingsError(f"unknown demonstration {name}; there are {', '.join(DEMONSTRATIONS)}")


if __name__ == "__main__":
    execute(main)
