"""``python -m jobs.adapt``: the command ``qwen3-index adapt``, for checkouts and ``ray job submit``."""

from indexer.commands.entry import start

if __name__ == "__main__":
    start("adapt")
