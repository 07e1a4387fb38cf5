"""Index a Parquet corpus: embed what is new or changed and publish it as LanceDB tables, one per Matryoshka width.

The last line on standard output is one JSON object with the run's status, whatever became of it. Exit status: 0 done,
1 failed, 2 unusable settings or corpus, 3 refused to publish. Running the same command again resumes what was staged.
"""

import argparse
import json
from typing import TYPE_CHECKING, Literal

from indexer.errors import RefusedError, SettingsError
from indexer.indexing import summary

if TYPE_CHECKING:
    from indexer.commands.command import CommandLine


def main() -> None:
    """Indexes, or with ``--plan`` says what would be done, or with ``--tune`` looks for the fastest engine settings.

    Raises:
        RefusedError: A gate refuses, also what is only planned.
    """
    journal = None
    try:
        # Imported here, so that a night that lacks a package has a last line too.
        from indexer.commands.command import load  # noqa: PLC0415
        from indexer.indexing import plan, run, tune  # noqa: PLC0415
        from indexer.indexing.journal import Journal  # noqa: PLC0415
        from indexer.settings import Settings  # noqa: PLC0415

        settings, arguments = load(Settings, _command())
        _check(arguments)
        if not (arguments.tune or arguments.plan):
            journal = Journal()
            rebuild, budget = _rebuild(arguments.rebuild), arguments.budget
            print(json.dumps(run.run(settings, rebuild=rebuild, budget=budget, journal=journal)))
            return
    except (Exception, KeyboardInterrupt) as error:
        # The last line of a night has the same keys, however the run ended.
        ended = summary.of_ended(error)
        print(json.dumps(journal.last_line(ended) if journal else ended))
        raise
    if arguments.tune:
        print(json.dumps(tune.tune(settings, arguments.config[0].with_suffix(".engine.toml"))))
        return
    planned = plan.plan(settings, rebuild=_rebuild(arguments.rebuild), budget=arguments.budget)
    print(json.dumps(planned) if arguments.json else plan.in_words(planned))
    if planned["refused"]:
        raise RefusedError(f"the run would not be published: {'; '.join(planned['refused'])}")


def _command() -> "CommandLine":
    """The command line of the job."""
    from indexer.commands.command import command_line  # noqa: PLC0415  # as in main

    command = command_line(__doc__ or "")
    instead = command.add_mutually_exclusive_group()
    instead.add_argument("--plan", action="store_true", help="print what would be done and write nothing")
    command.add_argument("--json", action="store_true", help="print the plan as JSON")
    command.add_argument(
        "--budget", type=_money, metavar="MONEY", help="start nothing if the run would cost more than this"
    )
    command.add_argument(
        "--rebuild",
        nargs="?",
        const="changed",
        choices=["changed", "always"],
        help="embed everything anew: where no stored vector gives what is asked for (changed, the default), or always",
    )
    instead.add_argument(
        "--tune", action="store_true", help="time engine settings on a sample of the corpus, write the best beside FILE"
    )
    return command


def _check(arguments: argparse.Namespace) -> None:
    """Refuses flags that ``--tune`` would not read."""
    for flag, value in (("--budget", arguments.budget), ("--rebuild", arguments.rebuild)):
        if arguments.tune and value is not None:
            raise SettingsError(f"--tune times engines and publishes nothing: leave out {flag}")


def _rebuild(given: str | None) -> bool | Literal["always"]:
    """Value of ``--rebuild`` as the run takes it."""
    return "always" if given == "always" else given is not None


def _money(text: str) -> float:
    """Value of ``--budget``."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value
