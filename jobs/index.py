"""``python -m jobs.index``: the command ``qwen3-index index``, for checkouts and ``ray job submit``."""

from indexer.commands.command import execute
from indexer.commands.index import main

if __name__ == "__main__":
    execute(main)
