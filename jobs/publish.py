"""``python -m jobs.publish``: the command ``qwen3-index epochs``, for checkouts and ``ray job submit``."""

from indexer.commands.entry import start

if __name__ == "__main__":
    start("epochs")
