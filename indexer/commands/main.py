"""``qwen3-index``: every command under one name."""

import importlib
import sys
from typing import NoReturn

from indexer.commands.entry import execute
from indexer.errors import SettingsError, did_you_mean
from indexer.version import __version__

COMMANDS = {
    "index": "embed what is new or changed in a Parquet corpus and publish it as LanceDB tables",
    "search": "ask a published index a question",
    "score": "score pairs with a reranker, or rerank what a search finds",
    "evaluate": "measure widths, precisions, vector indices and reranking on judged queries",
    "adapt": "train the index's model on its own corpus, and adopt it only where it is better",
    "epochs": "list, show, roll back and prune what is published; resume after a rollback",
}
"""Sub-commands, named like their modules of this package, each with a line of help."""


def run() -> NoReturn:
    """Runs the sub-command that the command line names, to its exit status."""
    execute(main)


def main() -> None:
    """Reads the sub-command and passes it the rest of the command line.

    Raises:
        SettingsError: There is no such sub-command.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in {"-h", "--help"}:
        print(_help())
    elif name == "--version":
        print(f"qwen3-index {__version__}")
    elif name == "completion":
        importlib.import_module("indexer.commands.completion").main(COMMANDS)
    elif name in COMMANDS:
        # argparse names the command after the first word.
        sys.argv = [f"qwen3-index {name}", *sys.argv[2:]]
        # Imports of a command take seconds: import only the chosen one.
        importlib.import_module(f"indexer.commands.{name}").main()
    else:
        raise SettingsError(f"unknown command {name}{did_you_mean(name, COMMANDS)}; there are {', '.join(COMMANDS)}")


def _help() -> str:
    """Text of ``--help``."""
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: qwen3-index COMMAND --config FILE ...",
            "",
            "Nightly batch indexing with Qwen3-Embedding: Parquet in, LanceDB tables out.",
            "",
            *lines,
            "",
            "qwen3-index COMMAND --help lists a command's flags; qwen3-index --version prints the version;",
            "qwen3-index completion bash (or zsh, fish) prints a script that completes commands and flags.",
        ]
    )
