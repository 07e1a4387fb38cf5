"""Calls a function in a fresh process and ends every process that it starts."""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

PATIENCE_SECONDS = 3600.0

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

_CAUSE = re.compile(r"\w*(Error|Exception): \S")


def apart(function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE_SECONDS) -> Any:
    """Calls a function in a process of its own.

    Args:
        function: Top-level function.
        arguments: Its arguments.
        patience: Seconds after which the process is ended.

    Returns:
        The function's result.

    Raises:
        RuntimeError: The function raised, its process ended, or it took too long; the message says which.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(patience):
            raise RuntimeError(f"no result within {patience:.0f} s")
        done, result = receiver.recv()
    except EOFError:
        raise RuntimeError("the process ended without a result") from None
    finally:
        _end_group(process.pid)
        process.join()
    if not done:
        raise RuntimeError(result)
    return result


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Runs in the fresh process: calls the function and sends its result or error."""
    os.setsid()  # every process started from here on ends with the group
    try:
        answer = (True, function(*arguments))
    except Exception as error:  # noqa: BLE001  # sent to the caller
        answer = (False, _cause(error))
    sender.send(answer)


def _cause(error: Exception) -> str:
    """The cause in one line. Ray puts a task's traceback into the message, with the cause at its end."""
    lines = _COLOUR.sub("", str(error)).strip().splitlines() or [""]
    causes = [line.strip() for line in lines if _CAUSE.match(line.strip())]
    return causes[-1] if causes else f"{type(error).__name__}: {lines[0]}"


def _end_group(pid: int | None) -> None:
    """Kills the process group, if it still exists."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
