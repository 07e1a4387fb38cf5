"""``python -m jobs.publish``: the command ``qwen3-index epochs``, for checkouts and ``ray job submit``."""

from indexer.commands.command import execute
from indexer.commands.epochs import main

if __name__ == "__main__":
    execute(main)
