"""``python -m jobs.search``: the command ``qwen3-index search``, for checkouts and ``ray job submit``."""

from indexer.commands.command import execute
from indexer.commands.search import main

if __name__ == "__main__":
    execute(main)
