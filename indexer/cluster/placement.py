"""Placement of workers: resources of each, capacity of the machines, free places."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from indexer.cluster.leases import WorkerHandle
from indexer.cluster.pipeline import PIECES_INSIDE
from indexer.cluster.worker import MakePipeline, Worker
from indexer.errors import SettingsError
from indexer.progress import say
from indexer.settings import ClusterSettings

RELEASE_SECONDS = 5.0
"""How long Ray may take to count cores and GPUs as free after our own tasks and workers have ended."""


@dataclass
class Placement:
    """How workers are placed on the machines of a connected cluster.

    Attributes:
        settings: The cluster section.
        replicas: Workers that may share a GPU.
        gpus: Whether workers need GPUs. Decided once: a cluster that loses its GPUs must not get workers without any.
        shares: For each chosen worker how many share its GPU, the fewest first; empty on CPUs.
    """

    settings: ClusterSettings
    replicas: int
    gpus: bool
    shares: Sequence[int] = ()

    @property
    def share(self) -> int:
        """Most workers that share a GPU; 0 before they are chosen, and on CPUs."""
        return max(self.shares, default=0)

    def with_whole_machines(self) -> "Placement":
        """The same with all cores of a machine for a worker; on GPUs it is this one."""
        if self.gpus:
            return self
        cores = max(int(resources.get("CPU", 0)) for resources in _machines())
        settings = self.settings.model_copy(update={"cpus_per_worker": max(cores, 1), "workers": "auto"})
        return replace(self, settings=settings)

    @property
    def capacity(self) -> int:
        """Workers that the machines can hold: one per GPU (times the replicas), with cores for each."""
        return self._fit(_machines(), self.replicas)

    @property
    def free(self) -> int:
        """Workers for which there is a place now."""
        return self._fit(_free_parts(), self.replicas)

    def _fit(self, machines: Iterable[Mapping[str, float]], share: int) -> int:
        """Workers that fit on machines with these resources, if so many share a GPU."""
        fit = 0
        for resources in machines:
            by_cores = int(resources.get("CPU", 0)) // self.settings.cpus_per_worker
            fit += min(by_cores, int(resources.get("GPU", 0) * share + 1e-6)) if self.gpus else by_cores
        return fit

    @property
    def workers(self) -> int:
        """Workers that the settings want, if nobody else uses the machines; at least one, whose machine may come."""
        return max(self.capacity, 1) if self.settings.workers == "auto" else self.settings.workers

    @property
    def machine(self) -> dict[str, float]:
        """Ray's options of a task that has a whole GPU, or all cores of a machine."""
        if self.gpus:
            return {"num_cpus": self.settings.cpus_per_worker, "num_gpus": 1}
        return {"num_cpus": min(machine["CPU"] for machine in _machines() if machine.get("CPU"))}

    def resources_of(self, workers: int) -> dict[str, float]:
        """Resources of each of so many workers that work at the same time: a GPU, or equal parts of the cores.

        Args:
            workers: Number of workers.

        Raises:
            SettingsError: The machines have room for fewer.
        """
        machines = _machines()
        least = self.settings.cpus_per_worker
        if self.gpus:
            room, found = self._fit(machines, 1), {"CPU": float(least), "GPU": 1.0}
        else:
            most = max(int(resources.get("CPU", 0)) for resources in machines)
            room, parts = self._fit(machines, 1), range(most, least, -1)
            cores = (part for part in parts if sum(int(one.get("CPU", 0)) // part for one in machines) >= workers)
            found = {"CPU": float(next(cores, least))}
        if workers > room:
            raise SettingsError(
                f"train.workers: the machines of this cluster have room for {room} workers with {self.needs}, not for "
                f"{workers}"
            )
        return found

    @property
    def threads(self) -> int:
        """Threads of a worker on GPUs: its part of the cores, where every GPU has its workers."""
        parts = [int(found.get("CPU", 0) / (found["GPU"] * self.share)) for found in _machines() if found.get("GPU")]
        return max(self.settings.cpus_per_worker, min(parts, default=0))

    @property
    def needs(self) -> str:
        """The resources of a worker, in words."""
        cores = f"{self.settings.cpus_per_worker} cores" if self.settings.cpus_per_worker > 1 else "a core"
        return f"a GPU and {cores} each" if self.gpus else f"{cores} each"

    def bundles(self, workers: int) -> list[dict[str, float]]:
        """Resources of so many workers, as Ray's autoscaler is asked for them."""
        if not self.gpus:
            return [{"CPU": float(self.settings.cpus_per_worker)}] * workers
        together = {"CPU": float(self.settings.cpus_per_worker * self.replicas), "GPU": 1.0}
        return [together] * -(-workers // self.replicas)

    def choose(self, most: int) -> int:
        """Chooses how many workers to start: the configured number, or the free places, and at least one.

        Args:
            most: Cap on the workers.

        Raises:
            SettingsError: The cluster's whole capacity is below the wanted number.
        """
        wanted = min(self.workers, most)
        capacity = self.capacity
        if wanted > capacity and self.settings.wait_minutes:
            wanted = max(capacity, 1)  # the others start when their machines come
        if wanted > capacity:  # Ray would wait for ever
            raise SettingsError(
                f"cluster.workers: the machines of this cluster have room for {capacity} workers of "
                f"{self.settings.cpus_per_worker} cores, not for {wanted}"
            )
        machines = _machines()
        if self.settings.workers == "auto":
            wanted, machines = self._free(wanted), _free_parts()
        self.shares = self._spread(wanted, machines) if self.gpus else ()
        return wanted

    def _spread(self, workers: int, machines: Sequence[Mapping[str, float]]) -> list[int]:
        """Fills every GPU before one is shared; Ray itself would fill one after another."""
        shares = range(1, self.replicas + 1)
        most = next((share for share in shares if self._fit(machines, share) >= workers), self.replicas)
        gpus, whole = sum(resources.get("GPU", 0) for resources in machines), self._fit(machines, 1)
        # Where cores, or parts of GPUs that others hold, decide who fits where, only equal workers surely fit.
        if whole < gpus or self._fit(machines, most) < max(whole * most, workers):
            return [most] * workers
        full = min(workers - whole * (most - 1), whole)
        return [most - 1] * (workers - full * most) + [most] * (full * most)

    def _free(self, wanted: int) -> int:
        """Workers that have a place now; waits until Ray counts what our own tasks have freed."""
        end = time.monotonic() + RELEASE_SECONDS
        while (free := self.free) < wanted and time.monotonic() < end:
            time.sleep(0.1)
        if free < wanted:
            say(
                f"others use this cluster: {free} of {wanted} workers have a place"
                + ("" if free else f"; waiting for {self.needs}")
            )
        return min(wanted, max(free, 1))

    def start_worker(self, make_pipeline: MakePipeline, share: int = 1, tries: int = 1) -> WorkerHandle:
        """Requests a worker from Ray; it starts its engine as soon as it is placed.

        Args:
            make_pipeline: Builds the pipeline in the worker's process.
            share: Workers that share its GPU.
            tries: Starts of this worker so far, this one included.
        """
        options: dict[str, Any] = {"num_cpus": self.settings.cpus_per_worker}
        if self.gpus:
            options["num_gpus"] = 1 / share
        pinned = (0, self.threads) if self.gpus else (self.settings.cpus_per_worker,)
        actor: Any = ray.remote(Worker).options(max_concurrency=PIECES_INSIDE, **options).remote(*pinned)
        placed, started = actor.where.remote(), actor.start.remote(make_pipeline)
        return WorkerHandle(actor, placed, started, tries, share, time.monotonic())


def _machines() -> list[Mapping[str, float]]:
    """Resources of every machine that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _free_parts() -> list[Mapping[str, float]]:
    """What is free now of every machine's resources."""
    # A worker never spans two machines, and no public function of Ray gives the free resources of each one.
    return list(available_resources_per_node().values())
