"""The errors a user can meet, each with the exit status its command ends with."""

import difflib
from collections.abc import Iterable


class IndexerError(Exception):
    """A run failed; the message says why and never quotes document text."""

    exit_code = 1


class SettingsError(IndexerError):
    """Settings are unusable: unknown key, impossible value, or they contradict what is published."""

    exit_code = 2


class CorpusError(IndexerError):
    """The corpus cannot be read as configured; the message names the file."""

    exit_code = 2


class BadFile(CorpusError):
    """A file cannot be read: damaged, not Parquet, changed while it was read, or gone."""


class WrongColumns(CorpusError):
    """A file lacks a column, or has it with another type than the first file."""


class RefusedError(IndexerError):
    """The result was not published: a gate refused it or another run took its epoch."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its type where it has none: libraries write whole reports."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class EngineError(IndexerError):
    """The engine cannot start with these settings on this machine, or gives nonsense."""


class EngineDead(IndexerError):
    """The engine failed while it worked and cannot be used again; its process should end."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: ``(did you mean ...?)``, or nothing where no known name is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]}?)" if matches else ""
