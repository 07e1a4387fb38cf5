"""Ask a published index a question: prints ranked documents with their scores."""

import argparse
import json
import sys
from collections.abc import Sequence

from indexer.commands.command import command_line, load
from indexer.progress import printable
from indexer.search.hits import Hit
from indexer.search.published import open_published
from indexer.settings import RerankerSettings, Settings

SNIPPET_CHARACTERS = 160


def main() -> None:
    """Searches."""
    command = command_line(__doc__ or "")
    command.add_argument("question", nargs="+", help="one or more questions, each in quotes")
    command.add_argument("--k", type=_positive, default=5, help="results per question (default 5)")
    command.add_argument("--width", type=int, help="width to search at (default: the widest)")
    command.add_argument("--where", help="SQL condition on the table's columns, e.g. \"kind = 'class'\"")
    command.add_argument("--rerank", metavar="MODEL", help="reranker, hub id or directory, that orders the candidates")
    command.add_argument("--candidates", type=_positive, default=100, help="documents to rerank (default 100)")
    command.add_argument("--json", action="store_true", help="print one JSON object per question")
    settings, arguments = load(Settings, command)
    reranker = RerankerSettings(name=arguments.rerank) if arguments.rerank else None
    published = open_published(
        settings.index.uri, settings.index.name, engine=settings.engine.arguments, reranker=reranker
    )
    candidates = arguments.candidates if reranker else None
    answers = published.search(arguments.question, arguments.k, arguments.width, arguments.where, candidates)
    for question, hits in zip(arguments.question, answers, strict=True):
        if arguments.json:
            print(json.dumps({"question": question, "results": [_described(hit) for hit in hits]}, default=str))
        else:
            print_hits(question, hits, settings.corpus.text_columns)


def print_hits(question: str, hits: Sequence[Hit], text_columns: Sequence[str]) -> None:
    """Prints the answers to a question for a reader.

    Args:
        question: The question.
        hits: Its hits, best first.
        text_columns: Payload columns for a snippet, if the payload has one of them.
    """
    print(f"\n{printable(question)}")
    for rank, hit in enumerate(hits, 1):
        rest = {key: value for key, value in hit.payload.items() if key not in {*text_columns, *SPAN}}
        payload = "  ".join(f"{key}={value}" for key, value in rest.items())
        print(printable(f"  {rank}. {hit.score:.3f}  {hit.id}  {payload}".rstrip()))
        snippet = _snippet(hit, text_columns)
        if snippet:
            print(f"     {printable(snippet)}")
    if not hits:
        print("  nothing found", file=sys.stderr)


SPAN = ("char_start", "char_end")


def _snippet(hit: Hit, text_columns: Sequence[str]) -> str:
    """The beginning of a hit's text, on one line."""
    words = " ".join(hit.text(text_columns).split())
    return words if len(words) <= SNIPPET_CHARACTERS else words[: SNIPPET_CHARACTERS - 3] + "..."


def _described(hit: Hit) -> dict[str, object]:
    """A hit, JSON-ready."""
    return {
        "id": hit.id,
        "chunk": hit.chunk,
        "score": hit.score,
        "vector_score": hit.vector_score,
        "payload": hit.payload,
    }


def _positive(text: str) -> int:
    """A flag's whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
