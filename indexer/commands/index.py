"""Index a Parquet corpus: embed what is new or changed and publish it as LanceDB tables, one per Matryoshka width.

The last line on standard output is one JSON object. Exit status: 0 done, 1 failed, 2 unusable settings or corpus,
3 refused to publish. Running the same command again resumes what was staged.
"""

import json

from indexer.commands.command import command_line, load
from indexer.indexing import plan, run, tune
from indexer.settings import Settings


def main() -> None:
    """Indexes, or with ``--plan`` says what would be done, or with ``--tune`` looks for the fastest engine settings."""
    command = command_line(__doc__ or "")
    command.add_argument("--plan", action="store_true", help="print what would be done and do nothing")
    command.add_argument(
        "--rebuild", action="store_true", help="build a new generation of tables where settings differ from the index's"
    )
    command.add_argument(
        "--tune", action="store_true", help="time engine settings on a sample of the corpus, write the best beside FILE"
    )
    settings, arguments = load(Settings, command)
    if arguments.tune:
        result = tune.tune(settings, arguments.config.with_suffix(".engine.toml"))
    elif arguments.plan:
        result = plan.plan(settings, rebuild=arguments.rebuild)
    else:
        result = run.run(settings, rebuild=arguments.rebuild)
    print(json.dumps(result))
