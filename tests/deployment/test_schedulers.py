"""The examples for schedulers, with stubs of Airflow, Dagster and a cluster: statuses, retries, kills."""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

FOLDER = Path(__file__).parents[2] / "configs" / "schedulers"


class Killed(BaseException):
    """How Airflow and Dagster end a task at its timeout: no Exception."""


class Cluster:
    """A cluster whose jobs end with ``code``, or whose log is interrupted by ``raised``."""

    code: int | None = 0
    raised: Callable[[], Any] | None = None

    def __init__(self) -> None:
        self.began: list[str] = []
        self.stopped: list[str] = []

    def submit_job(self, *, entrypoint: str, submission_id: str) -> str:
        assert entrypoint == "qwen3-index index --config /etc/indexer/index.toml"
        self.began.append(submission_id)
        return submission_id

    def get_job_status(self, _: str) -> JobStatus:
        return JobStatus.SUCCEEDED if self.code == 0 else JobStatus.FAILED

    def get_job_logs(self, _: str) -> str:
        if self.raised is not None:
            self.raised()
        return "log\n"

    def get_job_info(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(driver_exit_code=self.code)

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda _: found)
    monkeypatch.setitem(sys.modules, "submit", loaded("submit"))
    return found


def loaded(name: str) -> ModuleType:
    """A file of the folder, as a scheduler imports it."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class AirflowFailException(Exception):
    """Airflow's: no further try."""


class Failure(Exception):
    """Dagster's."""

    def __init__(self, _: str, *, allow_retries: bool) -> None:
        super().__init__()
        self.allow_retries = allow_retries


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


def airflow_task(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The function of the DAG's one task."""
    tasks: list[Callable[[], None]] = []

    def task(**given: Any) -> Callable[[Any], Any]:
        assert given["execution_timeout"]
        return lambda function: tasks.append(function) or (lambda: None)

    stub(monkeypatch, "airflow")
    stub(monkeypatch, "airflow.sdk", task=task, dag=lambda **_: lambda function: function)
    stub(monkeypatch, "airflow.sdk.exceptions", AirflowFailException=AirflowFailException)
    loaded("airflow_dag")
    (found,) = tasks
    return found


def dagster_op(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The function of the job's one op."""
    kinds = ("Definitions", "RetryPolicy", "ScheduleDefinition")
    stubs = dict.fromkeys(kinds, SimpleNamespace)
    stub(
        monkeypatch,
        "dagster",
        Failure=Failure,
        job=lambda function: function,
        op=lambda **_: lambda function: function,
        **stubs,
    )
    return loaded("dagster_job").index


def test_a_status_says_whether_another_try_makes_sense(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    airflow, dagster = airflow_task(monkeypatch), dagster_op(monkeypatch)
    airflow()
    dagster()
    for code, again in ((1, True), (None, True), (2, False), (3, False)):
        cluster.code = code
        with pytest.raises(RuntimeError if again else AirflowFailException):
            airflow()
        with pytest.raises(Failure) as failed:
            dagster()
        assert failed.value.allow_retries == again
    assert len(set(cluster.began)) == 10
    assert cluster.stopped == [], "they ended by themselves"


@pytest.mark.parametrize("scheduled", [airflow_task, dagster_op])
@pytest.mark.parametrize(("raised", "ends"), [(kill, Killed), (terminate, KeyboardInterrupt)])
def test_a_killed_or_timed_out_task_leaves_no_run_behind(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    scheduled: Callable[[pytest.MonkeyPatch], Callable[[], None]],
    raised: Callable[[], None],
    ends: type[BaseException],
) -> None:
    index = scheduled(monkeypatch)
    cluster.raised = raised
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(ends):
            index()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert cluster.stopped == cluster.began
    assert len(cluster.began) == 1
