"""``python -m jobs.evaluate``: the command ``qwen3-index evaluate``, for checkouts and ``ray job submit``."""

from indexer.commands.command import execute
from indexer.commands.evaluate import main

if __name__ == "__main__":
    execute(main)
