"""``python -m jobs.score``: the command ``qwen3-index score``, for checkouts and ``ray job submit``."""

from indexer.commands.entry import start

if __name__ == "__main__":
    start("score")
