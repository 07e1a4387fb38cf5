"""Machines that come and go while a run works: asks the autoscaler, counts new places, waits for the first one."""

import time
from dataclasses import dataclass, field

from ray.autoscaler.sdk import request_resources

from indexer.cluster.placement import Placement
from indexer.errors import IndexerError
from indexer.progress import say

LOOK_SECONDS = 5.0
"""Between two looks at the machines of the cluster."""

SECONDS_PER_MINUTE = 60.0


@dataclass
class Growth:
    """How a pool follows its cluster.

    Attributes:
        placement: Where workers fit.
        most: Cap on the workers: an engine without work is useless.
    """

    placement: Placement
    most: int
    _known: int = 0
    _asked: bool = False
    _looked: float = field(default_factory=time.monotonic)

    @property
    def waits(self) -> bool:
        """Whether the settings let a run wait for machines, which an autoscaler starts."""
        return self.placement.settings.wait_minutes > 0

    @property
    def wanted(self) -> int:
        """Workers that the run could use."""
        workers = self.placement.settings.workers
        return self.most if workers == "auto" else min(workers, self.most)

    def begin(self) -> None:
        """Asks the autoscaler for all machines that the run could use, and waits for the first place.

        Raises:
            IndexerError: No machine came in time.
        """
        if self.waits:
            request_resources(bundles=self.placement.bundles(self.wanted))
            self._asked = True
            self._wait()
        self._known = self.placement.capacity

    def end(self) -> None:
        """Takes the request back: without it the autoscaler would keep the machines."""
        if self._asked:
            request_resources(bundles=[])
            self._asked = False

    def new_places(self, working: int) -> int:
        """Workers to start on machines that came since the last look.

        Args:
            working: Workers that are ready or starting.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return 0
        self._looked = time.monotonic()
        # A machine that is lost and replaced has its workers already: they were started anew and wait for a place.
        known, self._known = self._known, max(self._known, self.placement.capacity)
        more = max(0, min(self._known - known, self.wanted - working))
        if more:
            say(f"machines with places for {more} more workers came: starting them")
        return more

    def _wait(self) -> None:
        """Waits for a machine with a place for a worker."""
        minutes = self.placement.settings.wait_minutes
        end = time.monotonic() + minutes * SECONDS_PER_MINUTE
        if not self.placement.capacity:
            say(f"waiting for a machine with {self.placement.needs}, for at most {minutes:g} minutes")
        while not self.placement.capacity:
            if time.monotonic() > end:
                raise IndexerError(
                    f"no machine with {self.placement.needs} came in {minutes:g} minutes (cluster.wait_minutes); see "
                    "what the autoscaler says, `ray status`; the same command tries again"
                )
            time.sleep(1)
