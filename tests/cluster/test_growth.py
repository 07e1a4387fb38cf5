"""A run on a cluster that grows and shrinks under it: Ray's autoscaler with its fake machines."""

import re
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import ray

from indexer import progress
from indexer.cluster.growth import Growth
from indexer.cluster.placement import Placement
from indexer.errors import IndexerError
from indexer.reporting.runs import RunReports
from indexer.settings import ClusterSettings
from tests.support.fakes import published_rows, run, settings, words, write
from tests.support.rays import autoscaled

MACHINES = 4


@pytest.mark.slow
def test_a_run_takes_machines_that_come_and_gives_them_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From 0 machines to 4 with a worker each, of which those without a shard end before the run; nothing is lost.

    When Ray ends an idle machine is Ray's affair: its fake ones stayed for a minute and more.
    """
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    rows = words(680)
    write(tmp_path / "corpus" / "a.parquet", rows)
    seen: list[int] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1):
            if ray.is_initialized():
                seen.append(sum(node["Alive"] for node in ray.nodes()) - 1)

    with autoscaled(MACHINES, cores=2) as head:
        monkeypatch.setenv("RAY_TMPDIR", head.folder)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        cluster = {"address": head.address, "cpus_per_worker": 2, "wait_minutes": 5}
        given = settings(tmp_path, cluster=cluster, run={"shard_mb": 0.016, "progress": "lines"})
        watching = threading.Thread(target=look)
        watching.start()
        try:
            summary = run(given, seconds_per_token=0.03)
        finally:
            ended.set()
            watching.join()
    assert seen[0] == 0
    assert max(seen) == MACHINES
    said = capsys.readouterr().err
    print(said, seen, summary["seconds"], summary["stages"])
    assert "waiting for a machine with 2 cores each, for at most 5 minutes" in said
    assert "more workers came: starting them" in said
    assert said.count("its place is given back") >= 2
    working = [int(workers) for workers in re.findall(r"(\d+) workers, ", said)]
    assert (working[0] < MACHINES, max(working)) == (True, MACHINES)
    assert working[-1] <= 2, "the others end before the run"
    (report,) = RunReports(given.index.uri, given.index.name).latest()
    assert len(report.workers) == MACHINES
    assert (summary["indexed"], summary["restarts"], summary["quarantined"]) == (len(rows), 0, 0)
    assert published_rows(given, 96) == sorted((name, 0) for name, _ in rows)


class Machines(Placement):
    """A placement whose machines the test counts."""

    capacity = 0  # type: ignore[assignment]


def growth(capacity: int, most: int = 8, **given: object) -> Growth:
    found = Growth(Machines(ClusterSettings(**given), 1, gpus=False), most)
    found.placement.capacity = capacity  # type: ignore[misc]
    return found


def test_only_new_machines_get_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = growth(2)
    found.begin()
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def look(capacity: int, working: int) -> int:
        clock[0] += 6
        found.placement.capacity = capacity  # type: ignore[misc]
        return found.new_places(working)

    assert look(2, 2) == 0
    assert look(5, 2) == 3
    assert look(3, 5) == 0
    assert look(5, 5) == 0, "a replaced machine has its workers already"
    assert look(20, 5) == 3, "no more than there is work for"
    assert found.new_places(8) == 0, "not every second"


def _note(asked: list[object], bundles: object) -> None:
    asked.append(bundles)


def test_a_wait_in_vain_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("indexer.cluster.growth.request_resources", partial(_note, asked))
    found = growth(0, wait_minutes=0.01, workers=3)
    with pytest.raises(IndexerError, match=r"with a core each came in 0\.01 minutes \(cluster\.wait_minutes\)"):
        found.begin()
    found.end()
    assert asked == [[{"CPU": 1.0}] * 3, []]


def test_gpus_are_asked_for_by_the_machine() -> None:
    placement = Placement(ClusterSettings(cpus_per_worker=2, device="gpu"), 2, gpus=True)
    assert placement.bundles(3) == [{"CPU": 4.0, "GPU": 1.0}] * 2
