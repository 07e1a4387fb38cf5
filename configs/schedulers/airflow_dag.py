"""Airflow: index every night, try again what is worth it. Put this and ``submit.py`` into the folder of DAGs."""

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException
from submit import NOT_WORTH_RETRYING, submit

ADDRESS = os.environ.get("INDEXER_DASHBOARD", "http://indexing-head-svc.indexing:8265")

COMMAND = ["qwen3-index", "index", "--config", "/etc/indexer/index.toml"]


@dag(
    schedule="0 2 * * *", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1, tags=["search"]
)
def nightly_index() -> None:
    """One run a night. A second one beside it would be safe, and wasted."""

    @task(retries=2, retry_delay=timedelta(minutes=15), execution_timeout=timedelta(hours=8))
    def index() -> None:
        """Runs the command; its exit status says whether another try makes sense."""
        status = submit(ADDRESS, COMMAND)
        if status in NOT_WORTH_RETRYING:
            raise AirflowFailException(f"ended with status {status}: see the report that the log names")
        if status:
            raise RuntimeError(f"ended with status {status}: the next try resumes what is staged")

    index()


nightly_index()
