"""Ask a published index questions: prints ranked documents with their scores."""

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator
from typing import get_args

from indexer.commands.command import command_line, load, refuse_alone
from indexer.commands.print_answers import print_hits, print_side_by_side
from indexer.errors import IndexerError, SettingsError
from indexer.progress import say
from indexer.search.answers import Answer, to_json
from indexer.search.modes import SearchOptions, check
from indexer.search.published import Published, open_published
from indexer.search_settings import Mode
from indexer.settings import RerankerSettings, SearchSettings
from indexer.steps import told_steps

FEW_QUESTIONS = {"enforce_eager": True, "packed": "off"}
"""Engine settings for questions one by one: compiling, and proving packed steps, would take longer than answering."""


def main() -> None:
    """Searches."""
    command = command_line(__doc__ or "")
    command.add_argument("question", nargs="*", help="one or more questions, each in quotes")
    command.add_argument("--interactive", action="store_true", help="answer questions from standard input, one a line")
    command.add_argument("--k", type=_positive, default=5, help="documents per question (default 5)")
    command.add_argument(
        "--width",
        type=int,
        action="append",
        help="width to search at (default: search.width, else the widest); again: compare widths",
    )
    command.add_argument(
        "--mode",
        choices=get_args(Mode),
        action="append",
        help="vector, text, or hybrid: both, fused (default: search.mode); again: compare modes",
    )
    command.add_argument("--where", help="SQL condition on the table's columns, e.g. \"kind = 'class'\"")
    command.add_argument("--chunks", action="store_true", help="every chunk of a document may be a result")
    command.add_argument("--checkpoint", metavar="MODEL", help="where the index's model is, if it has moved")
    command.add_argument(
        "--rerank", metavar="MODEL", help="reranker, hub id or directory, that orders the candidates, for [reranker]"
    )
    command.add_argument("--candidates", type=_positive, help="documents to rerank (default: search.candidates)")
    command.add_argument("--json", action="store_true", help="print one JSON object per question, mode and width")
    command.add_argument("--whole-document", action="store_true", help="with --json: also the documents' whole text")
    settings, arguments = load(SearchSettings, command)
    _check(settings, arguments)
    with open_published(
        settings.index.uri,
        settings.index.name,
        engine=FEW_QUESTIONS | settings.engine.arguments,
        model=arguments.checkpoint,
        reranker=RerankerSettings(name=arguments.rerank) if arguments.rerank else settings.reranker,
    ) as published:
        asked = _Asked(published, settings, arguments)
        asked.check()
        if arguments.interactive:
            _converse(asked)
        for question in arguments.question:
            asked.answer(question)


def _check(settings: SearchSettings, arguments: argparse.Namespace) -> None:
    """Refuses flags that contradict each other, or that nothing would read."""
    if bool(arguments.question) == arguments.interactive:
        raise SettingsError(
            "ask a question, or use --interactive to type questions"
            if not arguments.question
            else "--interactive reads questions from standard input: leave out those on the command line"
        )
    is_reranked = arguments.rerank is not None or settings.reranker is not None
    refuse_alone("--candidates", "--rerank or [reranker]", is_alone=arguments.candidates and not is_reranked)
    refuse_alone("--whole-document", "--json", is_alone=arguments.whole_document and not arguments.json)


class _Asked:
    """What the command line and the settings ask of an index."""

    def __init__(self, published: Published, settings: SearchSettings, arguments: argparse.Namespace) -> None:
        """Of flags and settings the flags count."""
        self.published = published
        self._arguments = arguments
        self._chosen = settings.search
        self._modes: list[Mode] = arguments.mode or [settings.search.mode]
        self._widths: list[int | None] = arguments.width or [settings.search.width]
        is_reranked = arguments.rerank is not None or settings.reranker is not None
        self._rerank = (arguments.candidates or settings.search.candidates) if is_reranked else None

    def check(self) -> None:
        """Refuses what no question can be answered with, then starts the engines."""
        for mode, width in self._ways():
            check(self.published.snapshot, SearchOptions(mode, width, self._arguments.where))
        if self._rerank is not None:
            self.published.snapshot.text_columns  # noqa: B018  # refused here, before engines start
        with told_steps("the engine"):
            self.published.start(query_engine=set(self._modes) != {"text"})

    def answer(self, question: str) -> None:
        """Prints the answer to a question, in every mode and at every width that was asked for."""
        answers = [self._searched(question, mode, width) for mode, width in self._ways()]
        columns, whole = self.published.epoch.description.text_columns, self._arguments.whole_document
        if self._arguments.json:
            for answer in answers:
                print(json.dumps(to_json(answer, columns, whole=whole), allow_nan=False), flush=True)
        elif len(answers) > 1:
            print_side_by_side(answers)
        else:
            print_hits(question, answers[0].hits, columns)

    def _ways(self) -> Iterator[tuple[Mode, int | None]]:
        """Modes and widths; words alone are searched in one table."""
        for mode in self._modes:
            for width in self._widths if mode != "text" else self._widths[:1]:
                yield mode, width

    def _searched(self, question: str, mode: Mode, width: int | None) -> Answer:
        """The answer in one way."""
        began = time.perf_counter()
        (hits,) = self.published.search(
            [question],
            self._arguments.k,
            width,
            self._arguments.where,
            self._rerank,
            per_document=not self._arguments.chunks,
            mode=mode,
            oversample=self._chosen.oversample,
        )
        took = time.perf_counter() - began
        epoch = self.published.epoch
        searched = self.published.state(width).width
        return Answer(question, epoch.number, searched, epoch.description.model.name, mode, 1000 * took, hits)


def _converse(asked: _Asked) -> None:
    """Answers questions until there are no more; an error or Ctrl-C ends one answer only."""
    for question in _typed():
        try:
            if asked.published.refresh():
                say(f"epoch {asked.published.epoch.number}")
            asked.answer(question)
        except IndexerError as error:
            say(f"error: {error}", "ERROR")
        except KeyboardInterrupt:
            say("interrupted")


def _typed() -> Iterator[str]:
    """Questions from standard input, a line each, until its end, or Ctrl-C at the prompt."""
    prompt = "\n? " if sys.stdin.isatty() else ""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a byte that is not UTF-8 must not end the others' answers
    while True:
        try:
            question = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if question:
            yield question


def _positive(text: str) -> int:
    """A flag's whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
