"""What workers hold of GPUs, and for how long: what a run costs."""

import time
from dataclasses import dataclass

import ray

from indexer.cluster.leases import WorkerHandle
from indexer.cluster.placement import Placement


@dataclass(frozen=True)
class GpuUse:
    """What the workers of a pool held; all 0 on CPUs.

    Attributes:
        gpus: GPUs of all workers that the pool has had places for.
        seconds: GPUs times seconds, from each worker's placement to its end. A machine that is awaited costs nothing.
        ready_seconds: The same from the moment at which each worker's engine had started.
    """

    gpus: float = 0.0
    seconds: float = 0.0
    ready_seconds: float = 0.0


@dataclass
class HeldTime:
    """Seconds for which workers that have ended held their parts of a GPU, times these parts.

    Attributes:
        placed: From the moment at which Ray had placed each worker to its end.
        ready: From the moment at which each worker's engine had started to its end.
    """

    placed: float = 0.0
    ready: float = 0.0

    def end(self, member: WorkerHandle) -> None:
        """Kills a worker's process and adds the time for which it held its place."""
        ray.kill(member.actor)
        now = time.monotonic()
        if member.where:
            self.placed += (now - member.asked) / member.share
        if member.ready is not None:
            self.ready += (now - member.ready) / member.share

    def on_gpus(self, placement: Placement, workers: int) -> GpuUse:
        """What they held; nothing on CPUs.

        Args:
            placement: Where the workers are; it knows their parts of a GPU once a pool has begun.
            workers: Workers of the pool, those included that came with new machines.
        """
        if not placement.shares:
            return GpuUse()
        later = [placement.share] * (workers - len(placement.shares))
        return GpuUse(sum(1 / share for share in [*placement.shares, *later]), self.placed, self.ready)
