"""What the rings followed tell of their processes, by PID: for whom threads beside the loop ask."""

from collections.abc import Iterable, Mapping

from opentelemetry.util.types import AttributeValue

from vtprof_agent.follower import RingFollower
from vtprof_schemas import names


class Processes:
    """The last word of the loop; read by other threads, replaced as a whole."""

    def __init__(self) -> None:
        """Know none."""
        self._by_pid: Mapping[int, Mapping[str, AttributeValue] | None] = {}

    def take(self, rings: Iterable[RingFollower]) -> None:
        """Take over what the rings followed now say."""
        found: dict[int, Mapping[str, AttributeValue] | None] = {}
        for ring in rings:
            told = ring.resource.attributes
            known = found.setdefault(ring.pid, told)
            if known is not None and known[names.SERVICE_INSTANCE_ID] != told[names.SERVICE_INSTANCE_ID]:
                found[ring.pid] = None  # two processes of one number, in two PID namespaces
        self._by_pid = found

    def get(self, pid: int) -> Mapping[str, AttributeValue] | None:
        """Return the resource attributes of a process, None when it is not known, or not sure which."""
        return self._by_pid.get(pid)
