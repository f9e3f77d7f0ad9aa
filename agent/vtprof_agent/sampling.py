"""Runs the samplers that are here: GPUs in threads of their own, processes when the loop asks.

What the GPU samplers read goes to the meter as windows, and to the resources that run on the GPU as points.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from vtprof_agent.counters.meter import CounterWindow
from vtprof_agent.follower import RingFollower
from vtprof_agent.inbox.discovery import pid_here
from vtprof_agent.metric_points import Point
from vtprof_agent.resource import RingResource
from vtprof_agent.samplers.health import Health, SamplerState, judge
from vtprof_agent.samplers.reader import Reader
from vtprof_agent.samplers.sampler import SAMPLERS, Sample, Sampler, load
from vtprof_agent.samplers.tally import MOST_GPUS, Tally
from vtprof_agent.windows import INT64_MAX
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError, ConfigError
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
HOST: Final = "host"
OPEN_S: Final = 5.0
"""What the start waits for drivers; one that answers later is taken up then."""
JOIN_S: Final = 2.0
"""What the stop waits for readings under way."""


class WindowSink(Protocol):
    """Who gets counter windows, from the threads of the samplers."""

    def expect(self, hw_id: str, keys: tuple[str, ...], period_s: float) -> None:
        """Learn which counters will come and how often."""

    def add_window(self, window: CounterWindow) -> None:
        """Take a window; those of one counter of one GPU come in order."""

    def limit_power(self, hw_id: str, limit_mw: float) -> None:
        """Learn which power limit a GPU was made for."""


class Sampling:
    """The open samplers of this node."""

    def __init__(self, samplers: Sequence[Sampler] = (), meter: WindowSink | None = None) -> None:
        """Take open samplers that are read when ``sample`` is called."""
        self._samplers = samplers
        self._meter = meter
        self._readers: list[Reader] = []
        self._tally = Tally()
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        self._own: tuple[SamplerState, ...] = ()
        """Of the samplers that have no reader."""
        self._missing: dict[tuple[str, str], str] = {}
        self._limits: dict[str, int] = {}
        self._doubted: set[tuple[str, str]] = set()
        """GPUs and running totals of which a reading was left out."""
        self.faults = 0
        """Readings that failed, and values that cannot be, over all samplers."""

    @classmethod
    def start(
        cls,
        wanted: Sequence[str] = (),
        *,
        gpu_sample_s: float = 0.1,
        dcgm_url: str | None = None,
        meter: WindowSink | None = None,
        make: Callable[[str], Sampler] | None = None,
        open_s: float = OPEN_S,
    ) -> "Sampling":
        """Open the samplers wanted that are here, all when none is named; say once which is not, and why.

        GPUs are read each ``gpu_sample_s``, or at the period of a sampler that is slower. Raises ConfigError.
        """
        unknown = [name for name in wanted if name not in SAMPLERS]
        if unknown:
            raise ConfigError(f"samplers: unknown source {unknown[0]!r}; there are {', '.join(SAMPLERS)}")
        chosen = [name for name in SAMPLERS if name in wanted or not wanted]
        maker = make or partial(load, dcgm_url=dcgm_url)
        host, host_reason = _opened(maker(HOST)) if HOST in chosen else ((), None)
        sampling = cls(host, meter)
        if HOST in chosen:
            since_unix_ns = None if host_reason is None else time.time_ns()
            sampling._own = (SamplerState(HOST, host_reason, since_unix_ns),)
        for name in chosen:
            if name != HOST:
                sampling._readers.append(
                    Reader(
                        name,
                        partial(maker, name),
                        gpu_sample_s,
                        sampling._take,
                        sampling._failed,
                        asked=name in wanted or (name == "dcgm" and dcgm_url is not None),
                    )
                )
        deadline_s = time.monotonic() + open_s
        for reader in sampling._readers:
            if not reader.looked.wait(max(0.0, deadline_s - time.monotonic())):
                logger.warning("sampler %s: it does not answer; it is taken up when it does", reader.name)
        return sampling

    def health(self) -> Health:
        """Return what is read, and what is not since when and why."""
        with self._lock:
            told = self._tally.told(time.monotonic_ns())
        return judge(self._readers, self._own, time.monotonic(), time.time_ns(), told)

    def sample(self, rings: Sequence[RingFollower], node: RingResource, unix_ns: int) -> list[Point]:
        """Return what there is to export: processes as they are now, GPUs over the time since the last call.

        A process's samples go to its rings, a GPU's to the rings that run on it, or to the node when no ring says so.
        """
        writers = {ring: pid_here(ring.reader.identity) for ring in rings}
        pids = frozenset(pid for pid in writers.values() if pid is not None)
        samples = [sample for sampler in self._samplers for sample in self._read(sampler, pids)]
        with self._lock:
            samples += self._tally.take()
        self._watch()
        self._tell_limits()
        return [Point(resource, one, unix_ns) for one in samples for resource in _owners(one, writers, node)]

    def close(self) -> None:
        """Stop the threads and close the samplers; one that hangs is left behind after a while."""
        for reader in self._readers:
            reader.stop()
        deadline_s = time.monotonic() + JOIN_S
        for reader in self._readers:
            if not reader.join(deadline_s - time.monotonic()):
                logger.warning("sampler %s: a reading hangs; it is left behind", reader.name)
        for sampler in self._samplers:
            try:
                sampler.close()
            except Exception as error:
                self._failed(type(sampler).__name__, error)

    def _watch(self) -> None:
        """Say once when something that was read is missing, and when it is back."""
        missing = self.health().missing()
        for what in missing.keys() - self._missing.keys():
            logger.warning("%s: not read: %s", _called(*what), missing[what])
        for sampler, gpu in self._missing.keys() - missing.keys():
            if ("", gpu) not in missing and (sampler, "") not in missing:  # else all the more is missing
                logger.info("%s: read again", _called(sampler, gpu))
        self._missing = missing

    def _tell_limits(self) -> None:
        """Tell the meter, and who bounds the counters, of power limits that are new."""
        for device in [device for reader in self._readers for device in reader.devices]:
            limit_mw = device.power_limit_mw
            if limit_mw is not None and self._limits.get(device.uuid) != limit_mw:
                self._limits[device.uuid] = limit_mw
                with self._lock:
                    self._tally.limits_mw[device.uuid] = limit_mw
                if self._meter is not None:
                    self._meter.limit_power(device.uuid, limit_mw)

    def _take(self, samples: list[Sample], period_s: float) -> None:
        """Take a reading of a GPU sampler, in its thread."""
        with self._lock:
            before = self._tally.beyond
            expected, windows = self._tally.add(samples, time.monotonic_ns(), int(period_s * NS_PER_S))
            beyond = self._tally.beyond and not before
            refusals = self._tally.refusals()
            self.faults += len(refusals)
            new = [one for one in refusals if (one.hw_id, one.key) not in self._doubted]
            self._doubted.update((one.hw_id, one.key) for one in new)
        for doubt in new:
            logger.warning(
                "%s: %s went from %.0f to %.0f within %.1f s, which cannot be: the reading is left out, or the counter"
                " began anew; each is counted, the first is said",
                doubt.hw_id, doubt.key, doubt.before, doubt.value, doubt.passed_ns / NS_PER_S,
            )  # fmt: skip
        if beyond:
            logger.warning(
                "more than %d GPUs are told of: those beyond are left out; name with --dcgm-url the page of this node alone",
                MOST_GPUS,
            )
        if self._meter is None:
            return
        for one in expected:
            self._meter.expect(one.hw_id, (one.key,), one.period_s)
        for window in windows:
            self._meter.add_window(window)

    def _read(self, sampler: Sampler, pids: frozenset[int]) -> list[Sample]:
        try:
            return sampler.sample(pids)
        except Exception as error:
            self._failed(type(sampler).__name__, error)
            return []

    def _failed(self, name: str, error: Exception) -> None:
        """Count a fault of a sampler, which must cost neither the others nor the rings; the first is said."""
        with self._lock:
            self.faults += 1
            first = name not in self._failing
            self._failing.add(name)
        if first:
            logger.error("%s failed and is left out while it does: %r", name, error)


def _called(sampler: str, gpu: str) -> str:
    return gpu if not sampler else f"sampler {sampler}" + (f" of {gpu}" if gpu else "")


def _opened(sampler: Sampler) -> tuple[tuple[Sampler, ...], str | None]:
    """Open a sampler that has no reader; return it, or why there is none."""
    reason = sampler.why_not()
    if reason is None:
        try:
            sampler.open()
            return (sampler,), None
        except BackendError as error:
            reason = str(error)
    logger.warning("sampler %s is off: %s", HOST, reason)
    return (), reason


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


def _owners(
    sample: Sample, writers: Mapping[RingFollower, int | None], node: RingResource
) -> list[RingResource]:
    if sample.pid is not None:
        return [ring.resource for ring, pid in writers.items() if pid == sample.pid]
    users = [
        ring.resource
        for ring in writers
        if sample.hw_id in str(ring.resource.attributes.get(names.HW_ID, "")).split(",")
    ]
    # One tells for all: a server has a process for each GPU and more, which all name the same ones.
    return users[:1] or [node]
