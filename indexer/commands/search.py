"""Ask a published index questions: prints ranked documents with their scores."""

import argparse
import json
import sys
import time
from collections.abc import Iterator

from indexer.commands.command import command_line, load
from indexer.commands.print_answers import print_hits, print_side_by_side
from indexer.errors import IndexerError, SettingsError
from indexer.progress import say
from indexer.search.answers import Answer, to_json
from indexer.search.published import Published, open_published
from indexer.settings import RerankerSettings, SearchSettings

FEW_QUESTIONS = {"enforce_eager": True, "packed": "off"}
"""Engine settings for questions one by one: compiling, and proving packed steps, would take longer than answering."""


def main() -> None:
    """Searches."""
    command = command_line(__doc__ or "")
    command.add_argument("question", nargs="*", help="one or more questions, each in quotes")
    command.add_argument("--interactive", action="store_true", help="answer questions from standard input, one a line")
    command.add_argument("--k", type=_positive, default=5, help="documents per question (default 5)")
    command.add_argument(
        "--width", type=int, action="append", help="width to search at (default: the widest); again: compare widths"
    )
    command.add_argument("--where", help="SQL condition on the table's columns, e.g. \"kind = 'class'\"")
    command.add_argument("--chunks", action="store_true", help="every chunk of a document may be a result")
    command.add_argument("--checkpoint", metavar="MODEL", help="where the index's model is, if it has moved")
    command.add_argument("--rerank", metavar="MODEL", help="reranker, hub id or directory, that orders the candidates")
    command.add_argument("--candidates", type=_positive, default=100, help="documents to rerank (default 100)")
    command.add_argument("--json", action="store_true", help="print one JSON object per question and width")
    command.add_argument("--whole-document", action="store_true", help="with --json: also the documents' whole text")
    settings, arguments = load(SearchSettings, command)
    if bool(arguments.question) == arguments.interactive:
        raise SettingsError(
            "ask a question, or use --interactive to type questions"
            if not arguments.question
            else "--interactive reads questions from standard input: leave out those on the command line"
        )
    with open_published(
        settings.index.uri,
        settings.index.name,
        engine=FEW_QUESTIONS | settings.engine.arguments,
        model=arguments.checkpoint,
        reranker=RerankerSettings(name=arguments.rerank) if arguments.rerank else None,
    ) as published:
        _check(published, arguments)
        if arguments.interactive:
            _converse(published, arguments)
        for question in arguments.question:
            _answer(published, question, arguments)


def _check(published: Published, arguments: argparse.Namespace) -> None:
    """Refuses what no question can be answered with, then starts the engines."""
    for width in arguments.width or [None]:
        published.snapshot.check(width, arguments.where)
    published.start()


def _converse(published: Published, arguments: argparse.Namespace) -> None:
    """Answers questions until there are no more; an error or Ctrl-C ends one answer only."""
    for question in _typed():
        try:
            if published.refresh():
                say(f"epoch {published.epoch.number}")
            _answer(published, question, arguments)
        except IndexerError as error:
            say(f"error: {error}")
        except KeyboardInterrupt:
            say("interrupted")


def _typed() -> Iterator[str]:
    """Questions from standard input, a line each, until its end, or Ctrl-C at the prompt."""
    prompt = "\n? " if sys.stdin.isatty() else ""
    while True:
        try:
            question = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if question:
            yield question


def _answer(published: Published, question: str, arguments: argparse.Namespace) -> None:
    """Answers a question at every width that was asked for."""
    answers = [_searched(published, question, width, arguments) for width in arguments.width or [None]]
    columns = published.epoch.description.text_columns
    if arguments.json:
        for answer in answers:
            print(json.dumps(to_json(answer, columns, whole=arguments.whole_document), allow_nan=False), flush=True)
    elif len(answers) > 1:
        print_side_by_side(answers)
    else:
        print_hits(question, answers[0].hits, columns)


def _searched(published: Published, question: str, width: int | None, arguments: argparse.Namespace) -> Answer:
    """The answer at one width."""
    began = time.perf_counter()
    (hits,) = published.search(
        [question],
        arguments.k,
        width,
        arguments.where,
        arguments.candidates if arguments.rerank else None,
        per_document=not arguments.chunks,
    )
    took = time.perf_counter() - began
    epoch = published.epoch
    return Answer(
        question, epoch.number, published.state(width).width, epoch.description.model.name, "vector", 1000 * took, hits
    )


def _positive(text: str) -> int:
    """A flag's whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
