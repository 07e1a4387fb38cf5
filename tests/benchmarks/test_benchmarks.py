"""The arithmetic of the benchmarks, and the engine settings found for a corpus."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import host, storage
from benchmarks.support import machine, reporting
from benchmarks.support.flops import checkpoint_flops
from benchmarks.support.fresh_process import apart
from benchmarks.support.reporting import Contender
from benchmarks.support.workload import Outcome
from indexer.indexing import tune
from indexer.inference import sweep
from indexer.inference.sweep import Setting
from indexer.settings import Settings
from indexer.testing.checkpoints import minilm_path, qwen3_checkpoint
from indexer.testing.corpora import tiny_corpus
from indexer.testing.random_weights import SMALL


def test_flops_are_those_that_torch_counts(tmp_path: Path) -> None:
    """Torch counts both halves of the attention matrix, we the half that causal attention needs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModel

    path, length = qwen3_checkpoint(tmp_path / "model"), 96
    model = AutoModel.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.arange(length)[None])
    unseen = length**2 - length * (length + 1) // 2
    other_half = 4 * SMALL.layers * SMALL.heads * SMALL.head_dim * unseen
    assert counter.get_total_flops() - other_half == pytest.approx(checkpoint_flops(path, [length]), rel=1e-3)


def test_ratios_are_of_medians_and_say_what_is_absent() -> None:
    found = {
        "job": Contender([Outcome(100, seconds, 1.0, {}) for seconds in (1.0, 2.0, 10.0)]),
        "peer": Contender([Outcome(100, 4.0, 1.0, {})]),
        "missing": Contender([], "ModuleNotFoundError: No module named 'peer'"),
    }
    assert reporting.ratios(found, [("job", "peer"), ("job", "missing")]) == {"job/peer": 2.0}
    row = found["job"].describe(items_per_token=0.1, flops_per_token=4.0, limit=1000.0)
    assert (row["tokens_per_second"], row["items_per_second"], row["mfu"], row["spread"]) == (50, 5.0, 0.2, 1.8)
    assert found["missing"].describe(0.1, 4.0, 1000.0) == {"absent": "ModuleNotFoundError: No module named 'peer'"}


def test_a_ratio_below_its_least_accepted_value_is_named() -> None:
    floors = tomllib.loads(reporting.FLOORS.read_text(encoding="utf-8"))["small words bfloat16"]
    assert reporting.below_floors("small words bfloat16", floors) == []
    (below,) = reporting.below_floors("small words bfloat16", floors | {"job/stock_vllm": 0.5})
    assert "job/stock_vllm is 0.5" in below


def test_a_contender_that_is_absent_passes_no_floor() -> None:
    floors = tomllib.loads(reporting.FLOORS.read_text(encoding="utf-8"))["small words bfloat16"]
    measured = {name: least for name, least in floors.items() if name != "job/ray_data"}
    (below,) = reporting.below_floors("small words bfloat16", measured)
    assert "job/ray_data is not measured" in below
    assert reporting.below_floors("small words bfloat16", measured, {"ray_data"}) == []


def _host_result(root: Path) -> dict[str, Any]:
    """A result of the host benchmark with figures of its order of magnitude."""
    stages = {"read": 13.2, "tokenise": 4.3, "engine": 2.8, "widths": 2.5, "stage": 26.9}
    cost = {"tokens": 99.5, "worker_us": stages, "driver_us": {"scan": 9.9}}
    ours = {"100": 4.3}
    return {
        "machine": machine.describe(),
        "engine_us": {"loop": {"100": 122.4}, "packed": {"100": 6.2}},
        "tokenise_us": ours,
        "tokenise": {"ours": ours, "tokenizers": {"100": 183.4}},
        "costs": [host.with_gpus(root, cost, 6.2)],
        "control_plane": {"workers": 64, "efficiency": 0.96},
    }


def test_a_process_feeds_as_many_gpus_as_its_time_for_a_document_allows(tmp_path: Path) -> None:
    (cost,) = _host_result(tmp_path)["costs"]
    assert cost["gpus_fed"]["0.6B"] == pytest.approx(cost["gpu_us"]["0.6B"] / (13.2 + 4.3 + 2.5 + 26.9 + 6.2), rel=0.01)
    assert cost["gpus_fed"]["8B"] > 5 * cost["gpus_fed"]["0.6B"]


def test_results_are_written_as_data_table_and_picture(tmp_path: Path) -> None:
    measured = _host_result(tmp_path)
    reporting.write(tmp_path, "host", measured, host.markdown(measured))
    searched = [storage.searching(tmp_path, storage.Case(2000, 64, "float32", kind)) for kind in ("none", "IVF_FLAT")]
    reporting.write(tmp_path, "storage", measured | {"searching": searched}, "\n".join(reporting.table(searched)))
    assert searched[0]["recall_at_10"] == 1.0
    for name in ("host", "storage"):
        assert {file.suffix for file in tmp_path.glob(f"{name}.*")} == {".json", ".md", ".png"}
        header, *rows = [line for line in (tmp_path / f"{name}.md").read_text().splitlines() if line.startswith("|")]
        assert all(line.count("|") == header.count("|") for line in rows[:2])


def _fails() -> None:
    raise ValueError("one line\nand another")


def test_a_setting_is_written_as_toml() -> None:
    setting = Setting({"compilation_config": {"cudagraph_mode": "NONE"}}, replicas=2, packed="off")
    assert tomllib.loads(setting.toml())["engine"] == {
        "compilation_config": {"cudagraph_mode": "NONE"}, "packed": "off", "replicas_per_gpu": 2
    }  # fmt: skip


def test_a_function_apart_says_why_it_failed() -> None:
    with pytest.raises(RuntimeError, match=r"^ValueError: one line$"):
        apart(_fails)


def _one_setting(_: int) -> tuple[Setting, dict[str, list[int]]]:
    """Runs in a Ray task, instead of :func:`sweep.machine`."""
    return Setting({"enforce_eager": True}, replicas=1, pinned=True), {"max_num_batched_tokens": [-1]}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_tuning_writes_the_fastest_setting_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real engines on a worker's machine: vLLM refuses the second value, which is said and not chosen."""
    monkeypatch.setattr(sweep, "machine", _one_setting)
    monkeypatch.setattr(tune, "TOKENS", 4_000)
    settings = Settings(
        corpus={"uri": tiny_corpus(tmp_path / "corpus", 60)},
        model={"name": minilm_path(), "max_tokens": 128},
        index={"uri": str(tmp_path / "index"), "widths": [384]},
    )
    found = tune.tune(settings, tmp_path / "tuned.toml")
    works, refused = found["settings"]
    assert works["tokens_per_second"] > 0
    assert refused["tokens_per_second"] == 0
    assert "failure" in refused
    text = (tmp_path / "tuned.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text) == {"engine": {"enforce_eager": True}}
    assert f"# {works['tokens_per_second']:,} tokens/s" in text
    assert not (tmp_path / "index").exists()
    json.dumps(found)
