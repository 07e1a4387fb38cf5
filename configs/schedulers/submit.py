"""Submits a command to a Ray cluster, prints its log, and ends with the command's own exit status.

``python submit.py --address http://head:8265 -- qwen3-index index --config /etc/indexer/index.toml``

``ray job submit`` ends with 1 whatever went wrong. A scheduler has to tell 1, which is worth another try, from 2
(unusable settings) and 3 (refused), which are not. SIGTERM, Ctrl-C and a scheduler's timeout
stop the command, which then finishes the shards in hand.
Needs ``ray[default]`` of the cluster's version; RAY_AUTH_MODE and RAY_AUTH_TOKEN are read from the environment.
"""

import argparse
import secrets
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ray.job_submission import JobStatus, JobSubmissionClient

NOT_WORTH_RETRYING = (2, 3)
"""Exit statuses of a command that would end the same way again: unusable settings, refused."""

POLL_SECONDS = 2.0

INTERRUPTED = 130


def submit(address: str, command: Sequence[str]) -> int:
    """Runs a command on a cluster and waits for its end. Whatever ends the wait stops the command.

    Args:
        address: The dashboard's, ``http://host:8265``.
        command: The command and its arguments.

    Returns:
        Its exit status; 1 where Ray knows none, such as for a lost head node.

    Raises:
        KeyboardInterrupt: SIGTERM or Ctrl-C, unless the caller handles them itself.
    """
    client = JobSubmissionClient(address)
    # Named here: it can be stopped even if the answer to its submission never comes.
    job = f"indexer-{secrets.token_hex(8)}"
    with _terminated_as_interrupted():
        try:
            client.submit_job(entrypoint=shlex.join(command), submission_id=job)
            status = _wait(client, job)
        # Timeouts and kills of schedulers are no Exception: a command left alone would run beside the next try's.
        except BaseException:
            _stop(client, job)
            raise
    code = client.get_job_info(job).driver_exit_code
    return code if code is not None else int(status is not JobStatus.SUCCEEDED)


def _wait(client: JobSubmissionClient, job: str) -> JobStatus:
    """Prints a job's log until the job ends; returns how it ended."""
    shown = 0
    while True:
        status = client.get_job_status(job)
        log = client.get_job_logs(job)
        sys.stdout.write(log[shown:])
        sys.stdout.flush()
        shown = len(log)
        if status.is_terminal():
            return status
        time.sleep(POLL_SECONDS)


def _stop(client: JobSubmissionClient, job: str) -> None:
    """Stops a job, without hiding the error for which it is stopped."""
    try:
        client.stop_job(job)
    except Exception as error:  # noqa: BLE001  # the cluster may be what failed
        sys.stderr.write(f"{job} could not be stopped ({type(error).__name__}): `ray job stop {job}`" + "\n")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM end the block as Ctrl-C does, where nobody handles it yet."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main() -> None:
    """Reads the command line."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--address", required=True, help="the dashboard's address, http://host:8265")
    arguments.add_argument("command", nargs="+", help="the command, after --")
    given = arguments.parse_args()
    try:
        sys.exit(submit(given.address, given.command))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
