"""Metrics of a run in progress, as Prometheus reads them from a machine of Ray's."""

import multiprocessing
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from indexer.cluster.connection import Cluster
from indexer.cluster.leases import Done, GivenUp
from indexer.cluster.metrics import RunMetrics
from indexer.settings import ClusterSettings
from tests.deployment.test_monitoring import RAY

pytestmark = pytest.mark.usefixtures("ray_cluster")


INDEX = 'index="counted here'
"""Begin of the label of what this test counts: other runs on the same Ray are exported too."""


ZEROS = (
    ("ray_indexer_work_total", 'outcome="done"'),
    ("ray_indexer_work_total", 'outcome="given up"'),
    ("ray_indexer_tokens_total",),
    ("ray_indexer_workers_lost_total",),
)
"""Counters that are there from a run's begin on."""


def exported(names: set[str], seconds: float = 90.0) -> str:
    """The lines that Ray exports of this test's index, once all names are there."""
    (node, *_) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + seconds
    while True:
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if INDEX in line]
        found = {line.split("{")[0] for line in lines}
        if names <= found:
            return "\n".join(lines)
        assert time.monotonic() < deadline, sorted(found)
        time.sleep(1)


def counted() -> str:
    """Counts as the driver of a run does, and reads what Ray exports of it."""
    receipt: Any = SimpleNamespace(tokens=700, seconds={"engine": 2.0, "read": 0.02}, reasons={"too_long": 3})
    piece: Any = SimpleNamespace(size=40)
    with Cluster(ClusterSettings()):
        RunMetrics("counted here too", "documents")
        metrics = RunMetrics("counted here", "documents")
        metrics.count(Done(piece, receipt, 0.0, "here"), ready=2, lost=0)
        metrics.count(Done(piece, receipt, 0.0, "here"), ready=2, lost=1)
        metrics.count(GivenUp(piece, "it died"), ready=1, lost=1)
        return exported(set(RAY))


# A process of its own, as a run has one: Ray 2.60 counts everything once more for each connection a process had before.
def test_ray_exports_what_the_driver_counts() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        text = process.submit(counted).result()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines()}

    def value(name: str, *labels: str, index: str = "counted here") -> float:
        labels = (*labels, f'index="{index}"')
        (found,) = [
            number
            for key, number in values.items()
            if key.startswith(f"{name}{{") and all(label in key for label in labels)
        ]
        return found

    assert value("ray_indexer_work_total", 'outcome="done"', 'unit="documents"') == 80
    assert value("ray_indexer_work_total", 'outcome="given up"') == 40
    assert value("ray_indexer_tokens_total") == 1400
    assert value("ray_indexer_workers_lost_total") == 1
    assert value("ray_indexer_workers_ready") == 1
    assert value("ray_indexer_quarantined_total", 'reason="too_long"') == 6
    assert value("ray_indexer_quarantined_total", 'reason="poison"') == 40
    for name, *labels in ZEROS:
        assert value(name, *labels, index="counted here too") == 0, "of what has not happened yet"
    assert value("ray_indexer_stage_seconds_bucket", 'stage="engine"', 'le="3.0"') == 2
    assert value("ray_indexer_stage_seconds_bucket", 'stage="engine"', 'le="1.0"') == 0
