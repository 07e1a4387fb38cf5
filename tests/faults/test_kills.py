"""The real job, with real Ray and real engines, killed as by a lost machine and submitted again."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from indexer.search import published
from indexer.testing.checkpoints import qwen3_checkpoint
from indexer.testing.corpora import tiny_corpus
from tests.support.checkpoints import FAST_DTYPE, FEW
from tests.support.rays import end_ray

ROOT = Path(__file__).parents[2]

KILLS = 10

DOCUMENTS = 5000

CONFIG = """
[corpus]
uri = "{root}/corpus"
[model]
name = "{root}/model"
max_tokens = 256
[engine]
enforce_eager = true
[index]
uri = "{root}/{index}"
widths = [256, 64]
[cluster]
address = "local"
[run]
shard_mb = 0.01
progress = "none"
"""


def command(root: Path, index: str) -> list[str]:
    (root / f"{index}.toml").write_text(CONFIG.format(root=root, index=index))
    return [sys.executable, "-m", "jobs.index", "--config", str(root / f"{index}.toml")]


def vectors(root: Path, index: str, width: int) -> tuple[list[str], np.ndarray]:
    table = published.open_published(str(root / index), "docs").read(width, ["id", "vector"]).sort_by("id")
    return table["id"].to_pylist(), np.array(table["vector"].to_pylist())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    """Same keys; vectors equal but for the rounding of other batches."""
    drawn = random.Random(0)
    tiny_corpus(tmp_path / "corpus", DOCUMENTS)
    qwen3_checkpoint(tmp_path / "model", FEW, dtype=FAST_DTYPE)
    folder = tempfile.mkdtemp(prefix="ray-")
    environment = os.environ | {"RAY_TMPDIR": folder}
    subprocess.run(command(tmp_path, "whole"), cwd=ROOT, env=environment, check=True, timeout=600)
    receipts = tmp_path / "killed" / "_docs" / "receipts" / f"{1:012d}"
    for _ in range(KILLS):
        with subprocess.Popen(
            command(tmp_path, "killed"), cwd=ROOT, env=environment, start_new_session=True
        ) as running:
            wanted = len(list(receipts.glob("*"))) + drawn.randint(0, 2)
            while running.poll() is None and len(list(receipts.glob("*"))) < wanted:
                time.sleep(0.01)
            time.sleep(drawn.uniform(0, 3))
            assert running.poll() is None, "the run ended before it could be killed"
            os.killpg(running.pid, signal.SIGKILL)
        end_ray(folder)
        Path(folder).mkdir(exist_ok=True)
    subprocess.run(command(tmp_path, "killed"), cwd=ROOT, env=environment, check=True, timeout=600)
    end_ray(folder)
    for width in (256, 64):
        (names, expected), (found, given) = (vectors(tmp_path, index, width) for index in ("whole", "killed"))
        assert found == names
        assert len(names) == DOCUMENTS
        assert ((given * expected).sum(axis=1)).min() > 0.9995
