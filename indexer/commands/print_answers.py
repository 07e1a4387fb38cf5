"""Prints the answers to questions, for people and as JSON."""

import shutil
import sys
from collections.abc import Sequence
from itertools import zip_longest

from indexer.progress import printable
from indexer.search.answers import Answer
from indexer.search.hits import SPAN, Hit

SNIPPET_CHARACTERS = 160

NARROWEST_COLUMN = 24


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
        print(printable(f"  {rank}. {hit.score:.3f}  {hit.id}  {_ranks(hit)}{payload}".rstrip()))
        snippet = _snippet(hit, text_columns)
        if snippet:
            print(f"     {printable(snippet)}")
    if not hits:
        print("  nothing found", file=sys.stderr)


def print_side_by_side(answers: Sequence[Answer]) -> None:
    """Prints answers to one question, found in several ways, in columns: score and id of every hit.

    Args:
        answers: The answers to the question.
    """
    print(f"\n{printable(answers[0].question)}")
    room = max(NARROWEST_COLUMN, (shutil.get_terminal_size().columns - 4) // len(answers) - 2)
    heads = [f"{answer.mode} {answer.width}, {answer.milliseconds:.0f} ms" for answer in answers]
    print("    " + "  ".join(head[:room].ljust(room) for head in heads).rstrip())
    columns = [[f"{hit.score:.3f} {printable(hit.id)}" for hit in answer.hits] for answer in answers]
    for rank, cells in enumerate(zip_longest(*columns, fillvalue=""), 1):
        print(f"{rank:>2}. " + "  ".join(cell[:room].ljust(room) for cell in cells).rstrip())


def _ranks(hit: Hit) -> str:
    """Where a hit of a hybrid search comes from; nothing for others."""
    if hit.text_rank is None and hit.vector_rank is None:
        return ""
    found = {"vector": hit.vector_rank, "text": hit.text_rank}
    return f"({', '.join(f'{name} {rank}' for name, rank in found.items() if rank)})  "


def _snippet(hit: Hit, text_columns: Sequence[str]) -> str:
    """The beginning of a hit's text, on one line."""
    words = " ".join(hit.text(text_columns).split())
    return words if len(words) <= SNIPPET_CHARACTERS else words[: SNIPPET_CHARACTERS - 3] + "..."
