"""The command with real Ray: killed while it trains, and submitted again."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from tests.adapting.test_run import make_index, settings
from tests.support import adapting
from tests.support.rays import end_ray

ROOT = Path(__file__).parents[2]


def _command(root: Path, output: str) -> list[str]:
    """The command with the settings of the tests, the gates open, as flags of an otherwise empty file."""
    train = {"steps": 12, "batch": 8, "mini_batch": 8, "checkpoints": 4, "learning_rate": 1e-3}
    given = settings(root, train=train, gates={"max_width_loss": 1.0, "least_gain": -1.0})
    file = root / f"{output}.toml"
    sections = json.loads(given.model_dump_json(exclude_unset=True)) | {"output": {"uri": str(root / output)}}
    sections["cluster"] = {"address": "local"}
    file.write_text("\n".join(f"[{name}]\n{_keys(section)}" for name, section in sections.items()))
    return [sys.executable, "-m", "jobs.adapt", "--config", str(file)]


def _keys(section: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())


def _weights(root: Path, output: str) -> str:
    (file,) = (root / output).glob("*/model/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, engine_process: Executor) -> None:
    base = adapting.word_matcher(tmp_path / "base")
    engine_process.submit(make_index, str(tmp_path), base).result()
    folder = tempfile.mkdtemp(prefix="ray-")
    environment = os.environ | {"RAY_TMPDIR": folder}
    try:
        for count in (1, 2):
            with subprocess.Popen(
                _command(tmp_path, "killed"), cwd=ROOT, env=environment, start_new_session=True
            ) as run:
                while run.poll() is None and len(list((tmp_path / "killed").glob("*/training/step-??????"))) < count:
                    time.sleep(0.01)
                assert run.poll() is None, "the run ended before it could be killed"
                os.killpg(run.pid, signal.SIGKILL)
            end_ray(folder)
            Path(folder).mkdir(exist_ok=True)
        for output in ("killed", "whole"):
            subprocess.run(_command(tmp_path, output), cwd=ROOT, env=environment, check=True, timeout=600)
    finally:
        end_ray(folder)
    assert _weights(tmp_path, "killed") == _weights(tmp_path, "whole")
