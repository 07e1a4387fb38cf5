"""Quickstart: index the documentation of this Python installation with all-MiniLM-L6-v2 and ask it three questions.

Running it again indexes what changed, which is nothing until Python is another one. Settings come
from configs/quickstart.toml; flags override them as in jobs.index.
"""

import platform
import sys
from pathlib import Path
from typing import Any

from indexer.commands.command import command_line, load
from indexer.commands.print_answers import print_hits
from indexer.indexing import run
from indexer.search.published import open_published
from indexer.settings import Settings
from jobs.demo import python_docs

CONFIG = "configs/quickstart.toml"

CORPUS = Path("data/quickstart/corpus")

MODEL = Path("data/quickstart/model")

QUESTIONS = [
    "How do I make a temporary directory that is deleted afterwards?",
    "How do I find all files with a given extension in a folder and its subfolders?",
    "What does the with statement do?",
]

NEXT_QUESTION = "How do I measure how long a piece of code takes?"

ANSWERS = 3


def main() -> None:
    """Builds the corpus, indexes it and searches it."""
    settings, _ = load(Settings, command_line(__doc__ or ""), ["--config", CONFIG, *sys.argv[1:]])
    python_docs.model_directory(MODEL)
    documents = python_docs.write_corpus(CORPUS)
    print(f"{documents:,} documents of Python {platform.python_version()} in {CORPUS}", flush=True)
    _print_summary(run.run(settings))
    with open_published(settings.index.uri, settings.index.name, engine=settings.engine.arguments) as published:
        answers = published.search(QUESTIONS, ANSWERS)
    for question, hits in zip(QUESTIONS, answers, strict=True):
        print_hits(question, hits, settings.corpus.text_columns)
    print(f'\nAsk your own:\n  .venv/bin/python -m jobs.search --config {CONFIG} "{NEXT_QUESTION}"')


def _print_summary(summary: dict[str, Any]) -> None:
    """Prints the main numbers of a run."""
    if summary["indexed"]:
        print(
            f"indexed {summary['indexed']:,} documents as {summary['chunks']:,} chunks, {summary['tokens']:,} tokens: "
            f"{summary['seconds']:.0f} s with start-up, {summary['tokens_per_second']:,.0f} tokens/s without"
        )
    else:
        print(f"epoch {summary['epoch']} has all {summary['documents']:,} documents")
    for table in summary["tables"]:
        size = table["bytes"] / 1e6
        print(f"  {table['name']:<12} {table['rows']:>6,} rows {size:>6.1f} MB  vector index: {table['index']}")
