"""What an engine is started with, without starting one."""

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from indexer.inference import start
from indexer.inference.engine_spec import EngineSpec, Packed
from indexer.inference.start import CPU_CACHE_BYTES, cpu_cache_bytes, memory_share
from indexer.testing.checkpoints import minilm_path
from tests.support.gpu_shares import CACHE_BYTES, take_little

GIB = 1 << 30

COMMIT = "0123456789abcdef0123456789abcdef01234567"

CONFIGURE = """
import sys, pickle
from indexer.inference.model import open_model
from indexer.settings import EngineSettings, ModelSettings
model = open_model(ModelSettings(name="org/model", revision="main"), EngineSettings())
assert model.checkpoint.path.startswith(sys.argv[1]), model.checkpoint.path
assert model.tokenizer.documents(["a text"]).ids.tokens > 2
open(sys.argv[2], "wb").write(pickle.dumps(model))
"""

LOAD = """
import sys, pickle
model = pickle.load(open(sys.argv[2], "rb"))
assert model.spec.path.startswith(sys.argv[1]), model.spec.path
print(model.fingerprint_digest)
"""


@pytest.mark.parametrize(
    ("free", "engines", "started", "wanted", "expected"),
    [
        (80, 1, 0, None, 0.9),
        (80, 2, 0, None, 0.45),
        (44, 2, 1, None, 0.45),  # the first of two has taken its part
        (20, 1, 0, None, 0.225),  # another job has most of the GPU
        (20, 2, 0, None, 0.113),
        (79, 2, 0, 0.42, 0.42),
        (79, 1, 0, 0.95, 0.95),
        (20, 2, 0, 0.42, 0.113),  # what is configured is more than a running job leaves
        (20, 1, 0, 0.2, 0.2),
        (20, 1, 0, 7, 7),  # vLLM says why not
    ],
)
def test_an_engine_takes_its_part_of_the_gpu_and_no_more_than_is_free(
    free: int, engines: int, started: int, wanted: float | None, expected: float
) -> None:
    assert memory_share(free * GIB, 80 * GIB, engines, started, wanted) == expected


@pytest.mark.parametrize("wanted", [None, 0.42, 0.85])
@pytest.mark.parametrize("free", [79.0, 44.0, 20.0])
def test_engines_that_share_what_is_free_have_like_parts(free: float, wanted: float | None) -> None:
    parts = []
    for started in range(2):
        parts.append(80 * memory_share(int(free * GIB), 80 * GIB, 2, started, wanted))
        assert parts[-1] <= free, "vLLM refuses to start"
        free -= parts[-1]
    assert max(parts) <= 1.2 * min(parts)


@pytest.mark.parametrize(
    ("arguments", "packed", "mode", "expected"),
    [
        ({"max_num_batched_tokens": 32768}, "auto", "embed", 2048),
        ({"max_num_batched_tokens": 32768}, "on", "score", 2048),
        ({"max_num_batched_tokens": 2048}, "auto", "embed", 256),
        ({"max_num_batched_tokens": 128}, "auto", "embed", 128),
        ({"max_num_batched_tokens": 32768, "max_num_seqs": 99}, "auto", "embed", 99),
        ({"max_num_batched_tokens": 32768}, "off", "embed", None),
        ({"max_num_batched_tokens": 32768}, "auto", "write", None),
    ],
)
def test_a_step_on_a_gpu_may_be_full_of_short_sequences(
    arguments: dict[str, int], packed: Packed, mode: Any, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "_gpu_memory", lambda: (80 * GIB, 80 * GIB))
    spec = EngineSpec("none", "bfloat16", 64, arguments, packed=packed, gpu_engines=2)
    found = start.for_gpu(spec, mode, arguments)
    assert found.get("max_num_seqs") == expected
    assert found["gpu_memory_utilization"] == 0.45


def test_engines_of_tests_leave_most_of_a_gpu_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("for_gpu", "GPU_SHARE"):
        monkeypatch.setattr(start, name, getattr(start, name))  # as they are, after this test
    monkeypatch.setattr(start, "_gpu_memory", lambda: (80 * GIB, 80 * GIB))
    take_little()
    spec = EngineSpec("none", "bfloat16", 64, {})
    found = start.for_gpu(spec, "write", {"kv_cache_memory_bytes": GIB})
    assert found == {"kv_cache_memory_bytes": GIB, "gpu_memory_utilization": 0.1}
    assert start.for_gpu(spec, "write", {})["kv_cache_memory_bytes"] == CACHE_BYTES


def test_without_a_setting_vllms_own_step_is_meant(engine_process: Executor) -> None:
    assert engine_process.submit(start.most_sequences, {}, 8192).result() == 512


@pytest.mark.parametrize(
    ("layers", "heads", "shape", "expected"),
    [
        (28, 16, {"num_key_value_heads": 8, "head_dim": 128}, CPU_CACHE_BYTES),  # Qwen3-Embedding-0.6B
        (4, 4, {"num_key_value_heads": 2, "head_dim": 32}, 128 << 20),
        (4, 4, {}, 512 << 20),
        (0, 0, {}, CPU_CACHE_BYTES),  # a configuration that names them otherwise
    ],
)
def test_small_models_have_a_small_cache(layers: int, heads: int, shape: dict[str, int], expected: int) -> None:
    config = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": 64 * heads}
    assert cpu_cache_bytes(config | shape, 512) == expected
    assert cpu_cache_bytes(config | shape, 1 << 17) == CPU_CACHE_BYTES  # four sequences of full length


def _hub_cache(root: Path) -> Path:
    """A hub cache that has the model, as huggingface_hub lays it out."""
    model = root / "hub" / "models--org--model"
    shutil.copytree(minilm_path(), model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return root


def _in_process(code: str, cache: Path, file: Path) -> str:
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(cache), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.heavy
def test_a_worker_loads_a_hub_model_from_its_own_cache(tmp_path: Path) -> None:
    """The driver's place of the files, and its tokenizer, stay with the driver."""
    driver, worker = _hub_cache(tmp_path / "driver"), _hub_cache(tmp_path / "worker")
    file = tmp_path / "model.pickle"
    _in_process(CONFIGURE, driver, file)
    shutil.rmtree(driver)
    content = file.read_bytes()
    assert str(driver).encode() not in content
    assert len(content) < 4096
    assert _in_process(LOAD, worker, file)
    assert pickle.loads(content).revision == COMMIT  # noqa: S301  # written above
