"""Score pairs with a reranker, or search a published index and rerank what is found.

With [pairs], a Parquet dataset of pairs gains the columns score and truncated. With [queries] and [index], each query's
candidates are reranked: a Parquet dataset, a LanceDB table and a TREC run file. The last line on standard output is
one JSON object. Exit status: 0 done, 1 failed, 2 unusable settings or input. Running the same command again resumes
what was written.
"""

import json

from indexer.commands.command import command_line, load
from indexer.reranking import run
from indexer.settings import ScoreSettings


def main() -> None:
    """Scores."""
    settings, _ = load(ScoreSettings, command_line(__doc__ or ""))
    print(json.dumps(run.run(settings)))
