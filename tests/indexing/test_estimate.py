"""What a run would take, in GPU-hours and money, and the budget that refuses it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from indexer.errors import RefusedError, SettingsError
from indexer.indexing import changes, estimate, plan, scan
from indexer.indexing import run as night
from indexer.indexing.estimate import Estimate
from indexer.indexing.job import open_job
from indexer.inference.flops import model_flops
from indexer.reporting.runs import RunReports
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.storage.description import RunTotals
from indexer.testing.checkpoints import minilm_path
from tests.support.fakes import model, run_here, settings, words, write
from tests.support.local_cluster import LocalCluster

pytestmark = pytest.mark.heavy

QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
}
"""Qwen3-Embedding-0.6B's shape, by its config.json."""


def estimated(given: Settings) -> Estimate:
    job = open_job(given)
    cluster: Any = LocalCluster()
    unread = scan.scan(job, cluster, scan.start_reader(job))
    return estimate.of_shards(job, estimate.left_shards(job, changes.compare(job, cluster, unread)))


def measured_on(given: Settings, number: int = 1, without: str = "", **run: float) -> None:
    """An epoch as if it had been made so, by a version that did not record something."""
    path = Path(given.index.uri) / "_docs" / "epochs" / f"{number:012d}.json"
    epoch = json.loads(path.read_text(encoding="utf-8"))
    epoch["description"]["run"] |= run
    epoch["description"]["run"].pop(without, None)
    path.write_text(json.dumps(epoch), encoding="utf-8")


def test_the_last_run_s_rate_and_gpus_give_hours_and_money(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(20))
    given = settings(tmp_path, run={"gpu_hour_price": 3.0})
    run_here(given)
    assert ControlStore(given.index.uri, "docs").epoch(1).description.run.gpus == 0
    measured_on(given, gpus=8, tokens_per_second=1000.0)
    write(tmp_path / "corpus" / "b.parquet", [(f"new-{name}", text) for name, text in words(50, seed=2)])
    found = estimated(given)
    assert found.gpu_hours == pytest.approx(found.tokens / 1000 * 8 / 3600)
    assert found.money == pytest.approx(3 * (found.gpu_hours or 0))
    assert (found.chunks, found.basis) == (50, "the last run's rate")
    with pytest.raises(
        RefusedError, match=r"would cost about 0\.0\d .*by the last run's rate\), --budget allows 0\.00"
    ):
        run_here_within(given, 0.0)
    assert ControlStore(given.index.uri, "docs").epoch_numbers() == [1]
    assert RunReports(given.index.uri, "docs").latest()[-1].status == "refused"
    assert run_here_within(given, 1.0)["indexed"] == 50


def test_the_time_is_a_range_by_the_rates_of_the_last_runs(tmp_path: Path) -> None:
    given = settings(tmp_path)
    for number, rate in ((1, 1000.0), (2, 250.0), (3, 400.0)):
        rows = [(f"{number}-{name}", text) for name, text in words(10, seed=number)]
        write(tmp_path / "corpus" / f"{number}.parquet", rows)
        run_here(given)
        measured_on(given, number, gpus=1, tokens_per_second=rate)
    write(tmp_path / "corpus" / "more.parquet", [(f"more-{name}", text) for name, text in words(50, seed=4)])
    found = estimated(given)
    assert found.seconds == pytest.approx(found.tokens / 400)
    assert found.seconds_range == pytest.approx((found.tokens / 1000, found.tokens / 250))
    told = {"estimated_seconds": 3000, "estimated_seconds_range": [1200, 4800]}
    assert plan._time_in_words(told) == "about 3,000 s as the last run, 1,200 to 4,800 s as the last few"
    same = told | {"estimated_seconds_range": [3000, 3000]}
    assert plan._time_in_words(same) == "about 3,000 s as the last run"


def run_here_within(given: Settings, budget: float) -> dict[str, Any]:
    cluster: Any = LocalCluster()
    return night.run(given, model(given), cluster, budget=budget)


def test_hours_are_those_that_workers_were_ready_for(tmp_path: Path) -> None:
    """Four GPUs of which three came late: neither the wait for them nor the start of their engines is repeated."""
    write(tmp_path / "corpus" / "a.parquet", words(20))
    given = settings(tmp_path)
    run_here(given)
    totals = {"tokens": 9_000_000, "resumed_tokens": 1_000_000, "tokens_per_second": 1000.0}
    measured_on(given, gpus=4, ready_gpu_hours=4.0, **totals)
    write(tmp_path / "corpus" / "b.parquet", [(f"new-{name}", text) for name, text in words(50, seed=2)])
    found = estimated(given)
    assert found.gpu_hours == pytest.approx(found.tokens * 4 / 8_000_000)


def on_cpus() -> RunTotals:
    """A measured run without GPUs."""
    return RunTotals(**dict.fromkeys(RunTotals.model_fields, 0) | {"tokens": 1000, "tokens_per_second": 100.0})


def test_a_first_run_is_estimated_by_the_models_flops(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(20))
    path = Path(shutil.copytree(minilm_path(), tmp_path / "model"))
    given = settings(tmp_path, model={"name": str(path)}, run={"gpu_hour_price": 3.0, "gpu_tflops": 989})
    assert estimated(given).gpu_hours is None, "the formula is Qwen3's"
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    qwen3 = config | QWEN3
    job = open_job(given)
    job.model.checkpoint.config.clear()
    job.model.checkpoint.config.update(qwen3)
    expected = 10_000 * model_flops(qwen3, [100]) / (989e12 * 0.4) / 3600
    for last in (None, on_cpus()):
        hours, basis = estimate._gpu_hours(job, tokens=1_000_000, chunks=10_000, last=last)
        assert (hours, basis) == (pytest.approx(expected), "40% of run.gpu_tflops")


def test_flops_of_qwen3_0_6b_are_two_per_weight_and_token() -> None:
    """440 million weights outside of the embedding table; attention adds little to short texts."""
    assert model_flops(QWEN3, [1]) / 2 == pytest.approx(440e6, rel=0.01)


def test_an_unknown_cost_is_no_cheap_one(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    with pytest.raises(SettingsError, match=r"--budget: what the run would cost is not known; set run\.gpu_hour_price"):
        run_here_within(settings(tmp_path), 100.0)


def test_a_run_without_gpus_does_not_make_the_next_one_free(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(20))
    given = settings(tmp_path, run={"gpu_hour_price": 3.0})
    run_here(given)
    write(tmp_path / "corpus" / "b.parquet", [(f"new-{name}", text) for name, text in words(50, seed=2)])
    assert (estimated(given).gpu_hours, estimated(given).money) == (None, None)
    with pytest.raises(SettingsError, match=r"--budget: .* is not known; .*before the first run on GPUs"):
        run_here_within(given, 100.0)
    assert run_here(given)["indexed"] == 50


def test_a_plan_above_its_budget_is_refused() -> None:
    dear = Estimate(tokens=10, chunks=1, seconds=1.0, gpu_hours=2.0, money=6.0, basis="the last run's rate")
    assert plan._above(dear, 6.0) == []
    assert plan._above(dear, None) == []
    (refused,) = plan._above(dear, 5.0)
    assert refused.startswith(
        "the run would cost about 6.00 (2 GPU-hours by the last run's rate), --budget allows 5.00"
    )


def test_only_what_is_left_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(200))
    given = settings(tmp_path)
    whole = estimated(given).tokens
    with monkeypatch.context() as patch:
        patch.setattr(ControlStore, "put_intent", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            run_here(given)
    assert whole > 0
    assert estimated(given).tokens == 0


def refused_rebuild(root: Path) -> dict[str, Any]:
    """What a run that only a rebuild could do says of its cost."""
    with pytest.raises(SettingsError) as no:
        run_here(settings(root, model={"max_tokens": 64}, run={"gpu_hour_price": 4.0}))
    numbers = r"vectors again, about (?P<tokens>[\d,]+) tokens, [\d,]+ s at the last run's rate"
    found = re.search(rf"{numbers}(, (?P<hours>[\d.]+) GPU-hours, which cost (?P<cost>[\d.]+))?\)", str(no.value))
    assert found is not None, no.value
    return {name: float(text.replace(",", "")) for name, text in found.groupdict().items() if text is not None}


def test_the_cost_of_a_rebuild_is_not_that_of_reused_vectors(tmp_path: Path) -> None:
    """A night that embeds one document and reuses 30 reads few tokens, but as many as ever for each that it embeds."""
    write(tmp_path / "corpus" / "a.parquet", words(30))
    given = settings(tmp_path, corpus={"payload": ["kind", "text"]})
    run_here(settings(tmp_path))
    first = ControlStore(given.index.uri, "docs").epoch(1).description.run
    assert (first.chunks, first.embedded) == (30, 30)
    assert refused_rebuild(tmp_path) == {"tokens": first.tokens}, "CPUs have no GPU-hours"
    write(tmp_path / "corpus" / "a.parquet", words(31))
    assert run_here(given)["payload_changed"] == 30
    second = ControlStore(given.index.uri, "docs").epoch(2).description.run
    assert (second.chunks, second.embedded) == (31, 1)
    measured_on(given, gpus=2.0, tokens_per_second=0.5, number=2)
    said = refused_rebuild(tmp_path)
    assert said["tokens"] == 31 * second.tokens
    hours = said["tokens"] / 0.5 * 2 / 3600
    assert (said["hours"], said["cost"]) == pytest.approx((hours, 4 * hours), rel=0.01)
    # A version that counted staged chunks alone: what was reused and what was embedded cannot be told apart.
    measured_on(given, gpus=2.0, tokens_per_second=0.5, number=2, without="embedded")
    assert refused_rebuild(tmp_path)["tokens"] == round(31 / 30 * first.tokens)
