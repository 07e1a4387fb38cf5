"""``python -m jobs.evaluate``: the command ``qwen3-index evaluate``, for checkouts and ``ray job submit``."""

from indexer.commands.entry import start

if __name__ == "__main__":
    start("evaluate")
