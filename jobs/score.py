"""``python -m jobs.score``: the command ``qwen3-index score``, for checkouts and ``ray job submit``."""

from indexer.commands.command import execute
from indexer.commands.score import main

if __name__ == "__main__":
    execute(main)
