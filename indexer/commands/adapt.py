"""Adapt the index's model to its own corpus: train it on pairs, and adopt the result only where it is better.

Pairs come from [titles], [synthetic], or [queries] with [judgements]. The last line on standard output is one JSON
object; the report and an adopted model are in a folder of output.uri. Standard error has the [model] block for
jobs.index --rebuild, or the [reranker] block for searches. Exit status: 0 adopted, 1 failed, 2 unusable settings or
queries, 3 refused. Running the same command again goes on where a killed run stopped.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from indexer.adapting_settings import AdaptSettings
from indexer.commands.command import command_line, load
from indexer.errors import RefusedError
from indexer.progress import say


def main() -> None:
    """Adapts.

    Raises:
        ModuleNotFoundError: What only this job needs is not installed.
        RefusedError: The adapted model is not adopted.
    """
    command = command_line(__doc__ or "")
    command.add_argument(
        "--plan", action="store_true", help="print what would be done and what it costs; write nothing"
    )
    command.add_argument("--json", action="store_true", help="print the plan as JSON")
    settings, arguments = load(AdaptSettings, command)
    if find_spec("sentence_transformers") is None:  # only the worker imports it, an hour later perhaps
        raise ModuleNotFoundError(name="sentence_transformers")
    from indexer.adapting import plan, run  # noqa: PLC0415  # need packages that production does not have

    if arguments.plan:
        planned = plan.plan(settings)
        print(json.dumps(planned) if arguments.json else plan.in_words(planned))
        return
    summary = run.run(settings)
    print(json.dumps(summary))
    if not summary["adopted"]:
        raise RefusedError(f"the adapted model is not adopted: {'; '.join(summary['refusals'])}")
    for line in summary["recommendation"]["toml"].splitlines():
        say(line)
    if settings.train.kind == "embedder":
        block = Path(summary["report"]).with_name("recommended.toml")
        say(f"index with it: python -m jobs.index --config FILE --config {block} --rebuild")
