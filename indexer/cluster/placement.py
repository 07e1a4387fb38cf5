"""Where workers fit: the resources that one asks for, and how many the cluster's machines hold."""

from dataclasses import dataclass
from typing import Any

import ray

from indexer.cluster.leases import WorkerHandle
from indexer.cluster.pipeline import PIECES_INSIDE
from indexer.cluster.worker import MakePipeline, Worker
from indexer.settings import ClusterSettings


@dataclass(frozen=True)
class Placement:
    """How workers are placed on the machines of a connected cluster.

    Attributes:
        settings: The cluster section.
        replicas: Workers that share a GPU.
        gpus: Whether workers want GPUs. It is decided once: a cluster that loses its GPUs must not get workers
            without any.
    """

    settings: ClusterSettings
    replicas: int
    gpus: bool

    @property
    def capacity(self) -> int:
        """Workers that the machines can hold: one per GPU (times the replicas), and cores for each."""
        return sum(self._fit(node["Resources"]) for node in ray.nodes() if node["Alive"])

    def _fit(self, resources: dict[str, float]) -> int:
        """Workers that one machine can hold."""
        by_cores = int(resources.get("CPU", 0)) // self.settings.cpus_per_worker
        return min(by_cores, int(resources.get("GPU", 0)) * self.replicas) if self.gpus else by_cores

    @property
    def workers(self) -> int:
        """Workers that the settings ask for."""
        return self.capacity if self.settings.workers == "auto" else self.settings.workers

    def start_worker(self, make_pipeline: MakePipeline) -> WorkerHandle:
        """Asks Ray for a worker, which starts its engine as soon as it has a place."""
        options: dict[str, Any] = {"num_cpus": self.settings.cpus_per_worker}
        if self.gpus:
            options["num_gpus"] = 1 / self.replicas
        cores = 0 if self.gpus else self.settings.cpus_per_worker
        actor: Any = ray.remote(Worker).options(max_concurrency=PIECES_INSIDE, **options).remote(cores)
        return WorkerHandle(actor, actor.start.remote(make_pipeline))
