"""Samplers in their threads: what they read reaches points and meter, and none that fails or hangs holds another."""

import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import cast

import pytest
from agent_process import wait_for

from vtprof_agent import sampling as sampling_module
from vtprof_agent.counters.meter import CounterWindow
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers import reader as reader_module
from vtprof_agent.samplers.health import Health, SamplerState
from vtprof_agent.samplers.reader import Reader
from vtprof_agent.samplers.sampler import SAMPLERS, Device, Sample, Sampler
from vtprof_agent.sampling import Sampling
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError, ConfigError

NODE = agent_resource("node")
DEADLINE_S = 60.0


class Fake:
    """A sampler of one GPU that tells what it is given."""

    period_s = 0.0
    quiet_s = 60.0

    def __init__(
        self, tell: Callable[[], list[Sample]] = list, why_not: Callable[[], str | None] = lambda: None
    ):
        self.tell, self.reason = tell, why_not
        self.readings = 0
        self.closed = threading.Event()

    def why_not(self) -> str | None:
        return self.reason()

    def open(self) -> None: ...

    def devices(self) -> list[Device]:
        return [Device("GPU-1", "Fake")]

    def sample(self, pids: frozenset[int]) -> list[Sample]:
        self.readings += 1
        return self.tell()

    def lost(self) -> dict[str, str]:
        return {}

    def refused(self) -> dict[str, str]:
        return {}

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def close(self) -> None:
        self.closed.set()


class Meter:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.expected: list[tuple[str, tuple[str, ...], float]] = []
        self.windows: list[CounterWindow] = []
        self.limits: dict[str, float] = {}

    def expect(self, hw_id: str, keys: tuple[str, ...], period_s: float) -> None:
        self.expected.append((hw_id, keys, period_s))

    def add_window(self, window: CounterWindow) -> None:
        self.windows.append(window)

    def limit_power(self, hw_id: str, limit_mw: float) -> None:
        self.limits[hw_id] = limit_mw


Start = Callable[..., Sampling]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start sampling with fakes; what is not given is not here."""
    running: list[Sampling] = []

    def started(meter: Meter | None = None, open_s: float = DEADLINE_S, **fakes: Fake) -> Sampling:
        absent = Fake(why_not=lambda: "it is not here")
        made: dict[str, Sampler] = {name: fakes.get(name, absent) for name in SAMPLERS}
        made[sampling_module.HOST] = Fake()
        running.append(
            Sampling.start((), gpu_sample_s=0.01, meter=meter, make=made.__getitem__, open_s=open_s)
        )
        return running[-1]

    yield started
    for sampling in running:
        sampling.close()


def _off(sampling: Sampling, name: str) -> str | None:
    return next(one.reason for one in sampling.health().samplers if one.name == name)


def _power(value: int) -> Callable[[], list[Sample]]:
    return lambda: [Sample(names.GPU_POWER_MW, value, hw_id="GPU-1", source="nvml")]


def test_ratios_reach_the_meter_as_windows_and_the_points_as_means(start: Start) -> None:
    edges = iter(range(0, 10**15, 10_000_000))
    last = next(edges)

    def tell() -> list[Sample]:
        nonlocal last
        begin, last = last, next(edges)
        return [
            Sample(
                names.GPU_DRAM_BANDWIDTH_RATIO, 0.5, hw_id="GPU-1", start_ns=begin, end_ns=last, source="gpm"
            )
        ]

    meter = Meter()
    sampling = start(meter, gpm=Fake(tell))
    wait_for(lambda: len(meter.windows) >= 3)
    assert meter.expected == [("GPU-1", (names.GPU_DRAM_BANDWIDTH_RATIO,), 0.01)]
    assert meter.windows[0] == CounterWindow(
        "GPU-1", names.GPU_DRAM_BANDWIDTH_RATIO, 0, 10_000_000, 5_000_000.0
    )
    points = sampling.sample([], NODE, 7)
    assert {(p.sample.key, p.time_unix_ns) for p in points} == {
        (names.GPU_DRAM_BANDWIDTH_RATIO, 7),
        (names.GPU_INTEGRALS[names.GPU_DRAM_BANDWIDTH_RATIO], 7),
    }
    assert points[0].sample.value == 0.5


def test_points_say_which_gpu_who_told_and_over_how_long() -> None:
    sample = Sample(names.GPU_DRAM_BANDWIDTH_RATIO, 0.5, hw_id="GPU-1", source="gpm", interval_ns=100_000_000)
    data = metrics_data([Point(NODE, sample, 7)], 1)
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert point.attributes == {
        "hw.id": "GPU-1",
        "vtprof.gpu.source": "gpm",
        "vtprof.gpu.interval_ns": 100_000_000,
    }


def test_a_sampler_that_fails_costs_no_other_and_is_said_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> list[Sample]:
        raise OSError("the driver is confused")

    failing, sound = Fake(fail), Fake(_power(7))
    sampling = start(nvml=sound, amd=failing)
    wait_for(lambda: failing.readings >= 3 and sound.readings >= 3 and sampling.faults >= 3)
    assert [p.sample.value for p in sampling.sample([], NODE, 1)] == [7]
    assert [r.message for r in caplog.records] == [
        "amd failed and is left out while it does: OSError('the driver is confused')"
    ]


def test_a_sampler_that_hangs_holds_neither_the_loop_nor_its_stop(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sampling_module, "JOIN_S", 0.05)
    release, inside = threading.Event(), threading.Event()

    def hang() -> list[Sample]:
        inside.set()
        release.wait(DEADLINE_S)
        return []

    hanging, sound = Fake(hang), Fake(_power(7))
    sampling = start(nvml=sound, pcie=hanging)
    assert inside.wait(DEADLINE_S)
    wait_for(lambda: sound.readings >= 3)
    assert [p.sample.value for p in sampling.sample([], NODE, 1)] == [7]
    sampling.close()
    assert sound.closed.wait(DEADLINE_S)
    assert not hanging.closed.is_set(), "nothing is closed under a call that is under way"
    assert "sampler pcie: a reading hangs; it is left behind" in caplog.messages
    release.set()
    assert hanging.closed.wait(DEADLINE_S)


def test_a_driver_that_does_not_answer_does_not_hold_the_start_and_is_taken_up_when_it_does(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def hang() -> str | None:
        release.wait(DEADLINE_S)
        return None

    slow = Fake(_power(7), hang)
    sampling = start(open_s=0.05, nvml=slow)
    assert "sampler nvml: it does not answer; it is taken up when it does" in caplog.messages
    assert _off(sampling, "nvml") == "it does not answer"
    release.set()
    wait_for(lambda: slow.readings >= 1)
    assert _off(sampling, "nvml") is None


def test_a_source_that_is_not_here_at_the_start_is_looked_for_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "REOPEN_S", 0.01)
    reasons = iter(["no driver", "no driver"])
    late = Fake(_power(7), lambda: next(reasons, None))
    sampling = start(nvml=late)
    wait_for(lambda: late.readings >= 1)
    assert [gpu.uuid for gpu in sampling.health().gpus] == ["GPU-1"]


def test_a_sampler_that_cannot_be_opened_is_said_once_with_the_reason(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reader_module, "REOPEN_S", 0.01)
    tried = []

    class Refusing(Fake):
        def open(self) -> None:
            tried.append(1)
            raise BackendError("no permission")

    sampling = start(nvml=Refusing())
    wait_for(lambda: len(tried) >= 3)
    assert caplog.messages == ["sampler nvml is off: no permission"]
    assert _off(sampling, "nvml") == "no permission"


def test_an_unknown_source_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown source 'gpus'; there are host, gpm, nvml"):
        Sampling.start(("gpus",))


def test_only_the_sources_wanted_are_started() -> None:
    sampling = Sampling.start(("host",))
    assert sampling.health() == Health((SamplerState("host"),))
    sampling.close()


def test_the_meter_hears_a_power_limit_when_it_is_known_or_another() -> None:
    """GPU-1 tells none at first, as a driver that does not offer it; nor does GPU-2 ever."""
    told: list[tuple[str, float]] = []

    class Listening(Meter):
        def limit_power(self, hw_id: str, limit_mw: float) -> None:
            told.append((hw_id, limit_mw))

    sampling, alone = Sampling((), Listening()), Sampling()
    for limit_mw in (None, 400_000, 400_000, 300_000):
        devices = [Device("GPU-1", "Fake", {}, limit_mw), Device("GPU-2", "Fake")]
        for one in (sampling, alone):
            one._readers = [cast(Reader, SimpleNamespace(devices=devices))]
            one._tell_limits()
    assert told == [("GPU-1", 400_000), ("GPU-1", 300_000)]


def test_the_power_limits_that_samplers_tell_reach_the_meter(start: Start) -> None:
    class Limited(Fake):
        def devices(self) -> list[Device]:
            return [Device("GPU-1", "Fake", {}, 400_000)]

    meter = Meter()
    start(meter, nvml=Limited(_power(7))).sample([], NODE, 1)
    assert meter.limits == {"GPU-1": 400_000}
