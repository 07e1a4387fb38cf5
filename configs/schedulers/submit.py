"""Submits a command to a Ray cluster, prints its log, and ends with the command's own exit status.

``python submit.py --address http://head:8265 -- qwen3-index index --config /etc/indexer/index.toml``

``ray job submit`` ends with 1 whatever went wrong. A scheduler has to tell 1, which is worth another try, from 2
(unusable settings) and 3 (refused), which are not. SIGTERM stops the command, which then finishes the shards in hand.
Needs ``ray[default]`` of the cluster's version; RAY_AUTH_MODE and RAY_AUTH_TOKEN are read from the environment.
"""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence

from ray.job_submission import JobStatus, JobSubmissionClient

NOT_WORTH_RETRYING = (2, 3)
"""Exit statuses of a command that would end the same way again: unusable settings, refused."""

POLL_SECONDS = 2.0

INTERRUPTED = 130


def submit(address: str, command: Sequence[str]) -> int:
    """Runs a command on a cluster and waits for its end.

    Args:
        address: The dashboard's, ``http://host:8265``.
        command: The command and its arguments.

    Returns:
        Its exit status; 1 where Ray knows none, such as for a lost head node.
    """
    client = JobSubmissionClient(address)
    job = client.submit_job(entrypoint=shlex.join(command))
    shown = 0
    try:
        while True:
            status = client.get_job_status(job)
            log = client.get_job_logs(job)
            sys.stdout.write(log[shown:])
            sys.stdout.flush()
            shown = len(log)
            if status.is_terminal():
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        client.stop_job(job)
        return INTERRUPTED
    code = client.get_job_info(job).driver_exit_code
    return code if code is not None else int(status is not JobStatus.SUCCEEDED)


def main() -> None:
    """Reads the command line."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--address", required=True, help="the dashboard's address, http://host:8265")
    arguments.add_argument("command", nargs="+", help="the command, after --")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(submit(given.address, given.command))


if __name__ == "__main__":
    main()
