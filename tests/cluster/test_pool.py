"""Workers on real Ray whose GPUs are numbers only: placed, started, given up; work goes to those that are ready."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import ray

from indexer import steps
from indexer.cluster import placement, starting
from indexer.cluster.connection import Cluster
from indexer.cluster.held import GpuUse
from indexer.cluster.leases import Done
from indexer.cluster.placement import Placement
from indexer.cluster.pool import WorkerPool
from indexer.errors import EngineError, IndexerError, SettingsError
from indexer.indexing.journal import Journal
from indexer.inference.engine_arguments import check_arguments
from indexer.settings import ClusterSettings
from tests.support.rays import ray_head
from tests.support.seats import Number, Seat, Starts, Tenant

pytestmark = pytest.mark.heavy

CORES, GPUS, REPLICAS = 4, 2, 2

SHARED_CACHE = "/shared/vllm"

MakePool = Callable[..., WorkerPool]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", SHARED_CACHE)
        with ray_head(CORES, GPUS) as head:
            yield head.address


@pytest.fixture
def make_pool(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePool]:
    monkeypatch.setattr(starting, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(placement, "RELEASE_SECONDS", 20.0)  # the workers of the test before

    def make(workers: Any, **options: Any) -> WorkerPool:
        settings = ClusterSettings(address=address, workers=workers)
        return opened(Cluster(settings, REPLICAS)).pool(Starts(tmp_path, **options), most=99)

    connections: list[Cluster] = []

    def opened(cluster: Cluster) -> Cluster:
        connections.append(cluster.__enter__())
        return cluster

    yield make
    for cluster in connections:
        cluster.__exit__()


def results(pool: WorkerPool, pieces: int = 8) -> dict[int, Seat]:
    ended = list(pool.run(map(Number, range(pieces)), retries=0, most_restarts=0))
    assert all(isinstance(one, Done) for one in ended)
    return dict(one.receipt for one in ended)


def wait_for(pool: WorkerPool, workers: int) -> None:
    """Works until so many are ready, with pauses in which they may start."""
    while pool.ready < workers:
        results(pool, pieces=1)
        time.sleep(0.2)


def machines(pool: WorkerPool) -> set[str]:
    """Where the ready workers are."""
    return {member.where for member in pool._members}


def test_each_gpu_has_a_worker_before_one_has_two(make_pool: MakePool) -> None:
    """Also after a loss: a successor takes the place of one that had a GPU of its own, and of one that shared one."""
    workers = GPUS + 1
    with make_pool(workers) as pool:
        for share in (1, 2):
            wait_for(pool, workers)
            assert len(machines(pool)) == GPUS
            lost = next(member for member in pool._members if member.share == share)
            ray.kill(lost.actor)
            assert len(list(pool.run(map(Number, range(8)), retries=2, most_restarts=1))) == 8
        wait_for(pool, workers)
        assert len(machines(pool)) == GPUS
    assert pool.used.gpus == GPUS


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_workers_are_spread_evenly_over_the_gpus(monkeypatch: pytest.MonkeyPatch, replicas: int) -> None:
    machines = [{"CPU": 64.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 3.0}]
    monkeypatch.setattr(placement, "_machines", lambda: machines)
    for workers in range(1, 7 * replicas + 1):
        found = Placement(ClusterSettings(workers=workers), replicas, gpus=True)
        assert found.choose(99) == workers == len(found.shares)
        gpus = sum(Fraction(1, share) for share in found.shares)
        assert gpus == min(workers, 7), "each GPU is used, and full"
        assert found.share - min(found.shares) <= 1


def test_workers_are_equal_where_cores_decide_who_fits_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with a GPU of its own could take one that only two workers of another machine can fill."""
    machines = [{"CPU": 2.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]
    monkeypatch.setattr(placement, "_machines", lambda: machines)
    found = Placement(ClusterSettings(workers=5), 2, gpus=True)
    assert found.choose(99) == 5
    assert found.shares == [2] * 5


def test_each_engine_knows_how_many_started_on_its_gpu_before(make_pool: MakePool) -> None:
    """By this it takes its part of the memory that is free."""
    with make_pool(GPUS * REPLICAS) as pool:
        wait_for(pool, GPUS * REPLICAS)
        seats = [seat for _, seat in ray.get([member.actor.run.remote(Number(0)) for member in pool._members])]
    assert {(seat.gpu, seat.before) for seat in seats} == set(product(map(str, range(GPUS)), range(REPLICAS)))
    assert {seat.cache for seat in seats} == {SHARED_CACHE}, "where the machine says"
    assert {count for seat in seats for count in seat.threads.values()} == {"1"}, "of four cores each has one"


def test_a_slower_way_of_the_engines_is_told_once(make_pool: MakePool, capsys: pytest.CaptureFixture[str]) -> None:
    """What a worker itself says only stands in Ray's log."""
    reason = "vLLM's own step loop runs the model, since packed steps cannot: a test"
    with make_pool(GPUS, slower=reason) as pool:
        wait_for(pool, GPUS)
        assert len(machines(pool)) == GPUS
        assert pool.starts.fallbacks == [reason]
        assert Journal(pools=[pool]).last_line({})["fallbacks"] == [reason]
    assert capsys.readouterr().err.count(f"{reason} (first seen on {os.uname().nodename}, GPU ") == 1


def test_a_worker_that_cannot_start_is_one_lost_slot(make_pool: MakePool, capsys: pytest.CaptureFixture[str]) -> None:
    """A GPU without memory; a hub that one machine does not reach, or a model's directory that is missing there."""
    with make_pool(2, broken={0: EngineError, 2: SettingsError}) as pool:
        assert results(pool).keys() == set(range(8))
    said = capsys.readouterr().err
    assert f"the worker on {os.uname().nodename}, GPU " in said
    assert "no memory for start 0; tried again in" in said


@pytest.mark.parametrize("fault", [EngineError, pytest.param(SettingsError, marks=pytest.mark.slow)])
def test_a_run_without_any_worker_ends_with_the_reason(
    make_pool: MakePool, tmp_path: Path, fault: type[IndexerError]
) -> None:
    pool = make_pool(2, broken=dict.fromkeys(range(99), fault))
    with pytest.raises(fault, match="cannot start: no memory for start"), pool:
        pass
    assert len(list(tmp_path.iterdir())) == 2 * starting.START_TRIES


def test_a_start_says_what_it_waits_for(make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line.split(" (", maxsplit=1)[0])
        if "others use" in line:
            ray.kill(tenant)
        elif "held up" in line:
            (tmp_path / "open").touch()

    pool = make_pool(1, gated=frozenset({0}))
    tenant: Any = Tenant.options(num_gpus=GPUS).remote()
    ray.get(tenant.hello.remote())
    monkeypatch.setattr(steps, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(steps, "say", say)
    with pool:
        pass
    assert said[0] == "starting workers: 1 waiting for a GPU and a core each, which others use"
    assert said[-1] == "starting workers: 1 held up by a test"


def test_only_a_place_costs_gpu_time(make_pool: MakePool) -> None:
    """A worker that waits for its GPU holds none, also where the run ends before it has a place."""
    pool = make_pool(1)
    tenant: Any = Tenant.options(num_gpus=GPUS).remote()
    ray.get(tenant.hello.remote())
    held_up = threading.Timer(1.5, ray.kill, [tenant])
    assert pool.used == GpuUse(), "before it is known whether workers share a GPU"
    began = time.monotonic()
    held_up.start()
    with pool:
        results(pool, pieces=1)
    whole = time.monotonic() - began
    assert pool.used.gpus == 1
    assert 0 < pool.used.ready_seconds <= pool.used.seconds < whole - 1.2


def test_the_only_worker_on_a_gpu_has_its_share_of_the_cores_for_tokenising(make_pool: MakePool) -> None:
    with make_pool(1) as pool:
        (seat,) = results(pool, pieces=1).values()
    assert set(seat.threads.values()) == {str(CORES // GPUS)}


def test_work_is_done_before_the_last_engine_is_ready(make_pool: MakePool) -> None:
    with make_pool(2, gated=frozenset({1})) as pool:
        assert results(pool).keys() == set(range(8))


def test_an_engine_that_never_starts_is_given_up(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "START_SECONDS", 0.5)
    with pytest.raises(IndexerError, match=r"has not started within 0 s"), make_pool(1, gated=frozenset(range(99))):
        pass


def test_auto_counts_what_is_free(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool("auto")
    tenant: Any = Tenant.options(num_gpus=GPUS - 1).remote()
    ray.get(tenant.hello.remote())
    monkeypatch.setattr(placement, "RELEASE_SECONDS", 1.0)
    end = time.monotonic() + 30
    with pool:
        assert pool.size == REPLICAS
        while pool.ready < REPLICAS and time.monotonic() < end:
            results(pool, pieces=1)
            time.sleep(0.2)
        assert pool.ready == REPLICAS, "a worker waits for a place that the tenant has"
    ray.kill(tenant)
    assert f"others use this cluster: {REPLICAS} of {CORES} workers have a place" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_engines_of_several_gpus_are_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"engine\.{name}: a worker has one GPU"):
        check_arguments({name: 2})
    check_arguments({name: 1})
