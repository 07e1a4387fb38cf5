"""Digests the corpus files that have no digest yet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from indexer.cluster.connection import SMALL_BYTES, Cluster
from indexer.corpus.files import DataFile, retry_once
from indexer.errors import BadFile, CorpusError, WrongColumns
from indexer.indexing.job import Job
from indexer.indexing.sandbox import Reader, ReaderProcess
from indexer.progress import say
from indexer.reasons import QuarantineReason

FILES_AT_ONCE = 64
"""Cap on the files of one task. Each task starts a process for reading, which takes half a second."""


@dataclass(frozen=True)
class Unread:
    """A file that is left out of a run.

    Attributes:
        path: The file.
        reason: Why.
        detail: The reason in a sentence.
        rows: Rows by its footer, ``None`` if that cannot be read either.
    """

    path: str
    reason: QuarantineReason
    detail: str
    rows: int | None


def start_reader(job: Job) -> ReaderProcess:
    """Starts the process in which :func:`scan` reads small corpora; meanwhile the caller can connect to Ray."""
    return ReaderProcess(_reader(job))


def scan(job: Job, cluster: Cluster, reader: ReaderProcess) -> dict[str, Unread]:
    """Records the digest of every file that has none yet.

    Args:
        job: The run's inputs.
        cluster: Where tasks run.
        reader: Result of :func:`start_reader` for the same job; its process is ended.

    Returns:
        Unreadable files by the name of their digest; the next run tries them again.

    Raises:
        CorpusError: A file has other columns and ``corpus.strict`` is set.
    """
    known = job.store.digests.names()
    fresh = [file for file in job.corpus.files if job.corpus.digest_name(file) not in known]
    if len(fresh) > 1:
        say(f"reading {len(fresh)} new or changed files of {len(job.corpus.files)}")
    with reader as process:
        # Other machines cannot read a scratch folder.
        if job.scratch or sum(file.size for file in fresh) < SMALL_BYTES:
            unread = _scan_some(process, job.settings.corpus.uri, fresh)
        else:
            unread = _scan_on(cluster, job, fresh)
    for file, left in unread:
        if left.reason is QuarantineReason.WRONG_COLUMNS and job.settings.corpus.strict:
            raise CorpusError(f"{left.detail}; corpus.strict = false leaves such files out")
        say(f"{file.path} is left out: {left.detail}", "WARNING")
    return {job.corpus.digest_name(file): left for file, left in unread}


def _reader(job: Job) -> Reader:
    """The reader of a job, as its process gets it: without the list of files."""
    return Reader(replace(job.corpus, files=()), job.scratch or job.settings.index.uri, job.settings.index.name)


def _scan_on(cluster: Cluster, job: Job, files: Sequence[DataFile]) -> list[tuple[DataFile, Unread]]:
    """Digests files in tasks of the cluster."""
    together = min(FILES_AT_ONCE, -(-len(files) // (4 * cluster.cores)))
    arguments = ((_reader(job), files[at : at + together]) for at in range(0, len(files), together))
    return [left for found in cluster.map(_scan_apart, arguments) for left in found]


def _scan_apart(reader: Reader, files: Sequence[DataFile]) -> list[tuple[DataFile, Unread]]:
    """Digests files in a process that a task starts."""
    with ReaderProcess(reader) as process:
        return _scan_some(process, reader.corpus.settings.uri, files)


def _scan_some(process: ReaderProcess, uri: str, files: Sequence[DataFile]) -> list[tuple[DataFile, Unread]]:
    """Digests files one by one; returns those that cannot be read."""
    unread = []
    for file in files:
        try:
            retry_once(uri, partial(process.digest, file))
        except BadFile as error:
            unread.append((file, Unread(file.path, QuarantineReason.BAD_FILE, str(error), error.rows)))
        except WrongColumns as error:
            unread.append((file, Unread(file.path, QuarantineReason.WRONG_COLUMNS, str(error), error.rows)))
    return unread
