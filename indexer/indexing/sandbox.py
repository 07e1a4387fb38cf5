"""Digests files of the corpus in a process of its own, under a memory limit.

A damaged or hostile file can exhaust its reader's memory or crash it. That ends this process and not the run.
Requests and answers are lines of JSON; the process itself writes the digests to the control files.
"""

import base64
import json
import os
import resource
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

import pyarrow as pa

from indexer.corpus.digests import scan_file
from indexer.corpus.documents import Corpus
from indexer.corpus.files import DataFile
from indexer.errors import BadFile, IndexerError, UnusableFile, WrongColumns, fault_line
from indexer.settings import CorpusSettings
from indexer.storage.control import ControlStore

GIB = 1 << 30

PATIENCE_SECONDS = 300.0

SLOWEST_BYTES = 1 << 20
"""Bytes per second. A file that takes longer than at this rate, plus the patience, counts as hanging its reader."""

KINDS: dict[str, type[IndexerError]] = {kind.__name__: kind for kind in (BadFile, WrongColumns, IndexerError)}
"""Errors that the process names in its answers."""


@dataclass(frozen=True)
class Reader:
    """Digests files into the control files of an index.

    Attributes:
        corpus: The corpus.
        uri: LanceDB database of the index.
        name: Name of the index.
    """

    corpus: Corpus
    uri: str
    name: str

    def digest(self, file: DataFile) -> None:
        """Reads one file and records its digest.

        Raises:
            BadFile: The file cannot be read.
            WrongColumns: Its columns differ from the corpus's.
            IndexerError: The digest cannot be written.
        """
        store = ControlStore(self.uri, self.name)
        store.digests.put(self.corpus.digest_name(file), scan_file(self.corpus, file))


class ReaderProcess:
    """A :class:`Reader` in another process, which is replaced when it ends."""

    def __init__(self, reader: Reader) -> None:
        """Starts the process without waiting: it loads its libraries for half a second."""
        self._reader = reader
        self._process: subprocess.Popen[str] | None = _start(reader)

    def __enter__(self) -> Self:
        """Returns itself: the process has started already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the process."""
        self._end()

    def digest(self, file: DataFile) -> None:
        """Like :meth:`Reader.digest`; a file that ends the process raises :class:`BadFile`."""
        process = self._process = self._process or _start(self._reader)
        most_seconds = PATIENCE_SECONDS + file.size / SLOWEST_BYTES
        alarm = threading.Timer(most_seconds, process.kill)
        alarm.start()
        if process.stdin is None or process.stdout is None:
            raise TypeError("the reader's process has no pipes")
        try:
            process.stdin.write(json.dumps(asdict(file)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            alarm.cancel()
        if not answer:
            status = self._end()
            most = self._reader.corpus.settings.reader_gb
            raise BadFile(
                f"{file.path}: the process that read it ended (status {status}); it may have {most} GiB and "
                f"{most_seconds:.0f} s"
            )
        kind, message, rows = json.loads(answer)
        if kind is not None:
            error = KINDS[kind](message)
            if isinstance(error, UnusableFile):
                error.rows = rows
            raise error

    def _end(self) -> int | None:
        """Kills the process and closes its pipes; returns its exit status."""
        if self._process is None:
            return None
        self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
        return status


def _start(reader: Reader) -> subprocess.Popen[str]:
    """Starts the process and sends it the reader's description."""
    corpus = reader.corpus
    described = {
        "settings": corpus.settings.model_dump(mode="json"),
        "payload": base64.b64encode(corpus.payload.serialize()).decode(),
        "skip_empty": corpus.skip_empty,
        "type_files": dict(corpus.type_files),
        "uri": reader.uri,
        "name": reader.name,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer.indexing.sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Ctrl-C must reach only the run, which then ends this process.
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if process.stdin is None:
        raise TypeError("the reader's process has no pipes")
    process.stdin.write(json.dumps(described) + "\n")
    process.stdin.flush()
    return process


def _described(line: str) -> Reader:
    """The reader that the first line describes."""
    described = json.loads(line)
    payload = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(described["payload"])))
    settings = CorpusSettings.model_validate(described["settings"])
    corpus = Corpus(settings, (), payload, described["skip_empty"], described["type_files"])
    return Reader(corpus, described["uri"], described["name"])


def _answer(reader: Reader, file: DataFile) -> tuple[str | None, str, int | None]:
    """Digests one file; returns the error's kind, its message and the file's rows."""
    try:
        reader.digest(file)
    except UnusableFile as error:
        return type(error).__name__, str(error), _row_count(reader, file)
    except IndexerError as error:
        return IndexerError.__name__, str(error), None
    except MemoryError:
        most = reader.corpus.settings.reader_gb
        return BadFile.__name__, f"{file.path}: reading it takes more than the {most} GiB of corpus.reader_gb", None
    except Exception as error:  # noqa: BLE001  # reading errors are BadFile by now; any other is our own fault
        return IndexerError.__name__, fault_line(error, f"reading {file.path}"), None
    return None, "", None


def _row_count(reader: Reader, file: DataFile) -> int | None:
    """Rows of an unusable file, ``None`` if they cannot be counted either."""
    try:
        with reader.corpus.open(file) as opened:
            return opened.count_rows()
    except (BadFile, MemoryError):
        return None


def main() -> None:
    """Answers requests until its input ends."""
    reader = _described(sys.stdin.readline())
    most = int(reader.corpus.settings.reader_gb * GIB)
    # One thread, since memory that a thread reserves counts. The limit is on data, not on address space, which mapped
    # files would use up.
    pa.set_cpu_count(1)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    for line in sys.stdin:
        print(json.dumps(_answer(reader, DataFile(**json.loads(line)))), flush=True)  # noqa: T201  # the answer


if __name__ == "__main__":
    main()
