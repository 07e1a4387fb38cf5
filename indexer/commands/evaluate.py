"""Evaluate a published index: which width, precision and vector index, two stages, text search, rerank or not.

Every configuration answers the same queries: those of [queries] with [judgements], or made of the documents
([known_items], [synthetic]). The last line on standard output is one JSON object; the report is a folder of output.uri
with an HTML page. Exit status: 0 done, 1 failed, 2 unusable settings, queries or judgements.
"""

import json

from indexer.commands.command import command_line, load, refuse_alone
from indexer.settings import EvaluateSettings


def main() -> None:
    """Evaluates."""
    command = command_line(__doc__ or "")
    command.add_argument(
        "--quantization", metavar="NAME", help="instead: what this precision of the model costs, e.g. fp8"
    )
    command.add_argument(
        "--checkpoint", metavar="MODEL", help="with --quantization: a checkpoint that is quantised so, e.g. compressed"
    )
    settings, arguments = load(EvaluateSettings, command)
    refuse_alone("--checkpoint", "--quantization", is_alone=arguments.checkpoint and arguments.quantization is None)
    from indexer.evaluation import precision, run  # noqa: PLC0415  # need packages that production does not have

    if arguments.quantization is not None:
        print(json.dumps(precision.compare(settings, arguments.quantization, arguments.checkpoint)))
    else:
        print(json.dumps(run.run(settings)))
