"""Dagster: index every night, try again what is worth it. Beside submit.py: ``dagster dev -f dagster_job.py``."""

import os

from dagster import Definitions, Failure, RetryPolicy, ScheduleDefinition, job, op
from submit import NOT_WORTH_RETRYING, submit

ADDRESS = os.environ.get("INDEXER_DASHBOARD", "http://indexing-head-svc.indexing:8265")

COMMAND = ["qwen3-index", "index", "--config", "/etc/indexer/index.toml"]


@op(retry_policy=RetryPolicy(max_retries=2, delay=900))
def index() -> None:
    """Runs the command; its exit status says whether another try makes sense."""
    status = submit(ADDRESS, COMMAND)
    if status:
        raise Failure(
            f"ended with status {status}: see the report that the log names",
            allow_retries=status not in NOT_WORTH_RETRYING,
        )


@job
def nightly_index() -> None:
    """One run a night."""
    index()


definitions = Definitions(
    jobs=[nightly_index],
    schedules=[ScheduleDefinition(job=nightly_index, cron_schedule="0 2 * * *", execution_timezone="UTC")],
)
