"""``python -m jobs.index``: the command ``qwen3-index index``, for checkouts and ``ray job submit``."""

from indexer.commands.entry import start

if __name__ == "__main__":
    start("index")
