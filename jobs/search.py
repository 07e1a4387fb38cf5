"""``python -m jobs.search``: the command ``qwen3-index search``, for checkouts and ``ray job submit``."""

from indexer.commands.entry import start

if __name__ == "__main__":
    start("search")
