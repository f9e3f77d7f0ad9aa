"""Runs the samplers that are here, once for each period, and gives their readings to the resource they belong to."""

import logging
from collections.abc import Callable, Sequence

from vtprof_agent.follower import RingFollower
from vtprof_agent.metric_points import Point
from vtprof_agent.resource import RingResource
from vtprof_agent.samplers.sampler import SAMPLERS, Device, Sample, Sampler, load
from vtprof_agent.windows import INT64_MAX
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

logger = logging.getLogger(__name__)


class Sampling:
    """The open samplers of this node."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        """Take open samplers."""
        self._samplers = samplers
        self._failing: list[Sampler] = []
        self.faults = 0
        """Readings that failed, over all samplers."""

    @classmethod
    def start(cls, make: Callable[[str], Sampler] = load) -> "Sampling":
        """Open every sampler that is here; say once which is not, and why."""
        opened = []
        for name in SAMPLERS:
            sampler = make(name)
            reason = sampler.why_not()
            if reason is not None:
                logger.debug("sampler %s is off: %s", name, reason)
                continue
            try:
                sampler.open()
            except BackendError as error:
                logger.warning("sampler %s is off: %s", name, error)
                continue
            opened.append(sampler)
        return cls(opened)

    def devices(self) -> list[Device]:
        """Return the devices that are sampled."""
        return [device for sampler in self._samplers for device in sampler.devices()]

    def sample(self, rings: Sequence[RingFollower], node: RingResource, unix_ns: int) -> list[Point]:
        """Read everything once.

        A process's samples go to its rings, a GPU's to the rings that run on it, or to the node when no ring says so.
        """
        pids = frozenset(ring.pid for ring in rings)
        samples = [sample for sampler in self._samplers for sample in self._read(sampler, pids)]
        return [Point(resource, one, unix_ns) for one in samples for resource in _owners(one, rings, node)]

    def close(self) -> None:
        """Close the samplers."""
        for sampler in self._samplers:
            try:
                sampler.close()
            except Exception as error:
                self._failed(sampler, error)

    def _read(self, sampler: Sampler, pids: frozenset[int]) -> list[Sample]:
        try:
            return sampler.sample(pids)
        except Exception as error:
            self._failed(sampler, error)
            return []

    def _failed(self, sampler: Sampler, error: Exception) -> None:
        """Count a fault of a sampler, which must cost neither the others nor the rings; the first is said."""
        self.faults += 1
        if sampler not in self._failing:
            self._failing.append(sampler)
            logger.error("%s failed and is left out while it does: %r", type(sampler).__name__, error)


def agent_points(ring: RingFollower, unix_ns: int) -> list[Point]:
    """Return what the agent says of its reading of a ring."""
    counts = {
        names.AGENT_RECORDS_READ: ring.records_read,
        names.AGENT_RECORDS_LOST: ring.records_lost,
        names.AGENT_RECORDS_DROPPED: ring.state.dropped,
        names.AGENT_HOOK_ERRORS: ring.state.hook_errors,
    }
    return [
        Point(ring.resource, Sample(key, min(count, INT64_MAX), cumulative=True), unix_ns)
        for key, count in counts.items()
    ]


def _owners(sample: Sample, rings: Sequence[RingFollower], node: RingResource) -> list[RingResource]:
    if sample.pid is not None:
        return [ring.resource for ring in rings if ring.pid == sample.pid]
    users = [
        ring.resource
        for ring in rings
        if sample.hw_id in str(ring.resource.attributes.get(names.HW_ID, "")).split(",")
    ]
    return users or [node]
