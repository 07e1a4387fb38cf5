"""Commands submitted to a cluster through its dashboard. The fake engine embeds: test_jobs.py has real ones."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from indexer.testing.checkpoints import minilm_path
from indexer.testing.corpora import tiny_corpus
from tests.support.commands import INDEX_CONFIG
from tests.support.rays import RAY, end_ray

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]

DOCUMENTS = 20

CONFIG = (
    INDEX_CONFIG
    + """
[cluster]
workers = 1  # the head has two cores
"""
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of an index of a few documents that is not there yet."""
    tiny_corpus(tmp_path / "corpus", DOCUMENTS)
    file = tmp_path / "index.toml"
    file.write_text(CONFIG.format(root=tmp_path, model=minilm_path()), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node with its dashboard and token: the dashboard's address, and an environment that may submit."""
    dashboard, port = _free_port(), _free_port()
    folder = tempfile.mkdtemp(prefix="ray-")
    # What an image has: the command on the path.
    programs = tmp_path_factory.mktemp("programs")
    command = programs / "qwen3-index"
    program = "from tests.support.commands import run_with_fake_engine as run; run()"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{program}' \"$@\"\n")
    command.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_TMPDIR": folder}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    head = [RAY, "start", "--head", f"--port={port}", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    # The other tests' cluster has the agent's usual port, without which an agent takes no jobs.
    ports = [f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0"]
    try:
        subprocess.run(
            [*head, *ports, "--disable-usage-stats", f"--object-store-memory={256 << 20}"],
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        end_ray(folder)


def test_ray_job_submit(config: Path, dashboard: tuple[str, dict[str, str]]) -> None:
    """As the README has it: the working directory is uploaded. A plan starts no engine."""
    address, environment = dashboard
    submit = [RAY, "job", "submit", "--address", address, "--working-dir", "."]
    command = [sys.executable, "-m", "jobs.index", "--config", str(config), "--plan", "--json"]
    done = _submitted([*submit, "--", *command], environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'"to_embed": {DOCUMENTS}' in done.stdout
    assert "succeeded" in done.stdout


def test_the_manifest_s_entry_point_runs_and_its_exit_status_comes_back(
    config: Path, dashboard: tuple[str, dict[str, str]]
) -> None:
    """As configs/kubernetes/rayjob.yaml has it, submitted by configs/schedulers/submit.py.

    It has something to embed: a run that finds nothing changed joins no Ray.
    """
    address, environment = dashboard
    manifest = yaml.safe_load((ROOT / "configs" / "kubernetes" / "rayjob.yaml").read_text(encoding="utf-8"))
    entrypoint = manifest["spec"]["entrypoint"].replace("/etc/indexer", str(config.parent)).split()
    submit = [sys.executable, str(ROOT / "configs" / "schedulers" / "submit.py"), "--address", address, "--"]
    done = _submitted([*submit, *entrypoint], environment)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert (summary["status"], summary["indexed"], summary["restarts"]) == ("published", DOCUMENTS, 0)
    assert "report: " in done.stdout
    config.write_text("[corpus]\nurl = 1\n", encoding="utf-8")
    done = _submitted([*submit, *entrypoint], environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: " in done.stdout


def _submitted(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Submits a job, again while the head node's agent is still starting."""
    for _ in range(10):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        if "No available agent" not in done.stderr:
            break
        time.sleep(3)
    return done


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
