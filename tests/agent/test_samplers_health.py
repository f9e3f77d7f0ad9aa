"""A sampler or GPU that is lost after the start is told as such: why, since when, once in the log, and when it is back."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from agent_process import wait_for

from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers import reader as reader_module
from vtprof_agent.samplers.health import SILENT, UNREAD, Absence, GpuState, SamplerState, judge
from vtprof_agent.samplers.reader import Reader
from vtprof_agent.samplers.sampler import ALL, SAMPLERS, Device, Sample, Sampler
from vtprof_agent.sampling import Sampling
from vtprof_schemas import names

NODE = agent_resource("node")
DEADLINE_S = 60.0
GPUS = ("GPU-1", "GPU-2")
UNIX_S = 1_000_000
S = 1_000_000_000


class Fake:
    """A sampler of two GPUs, of which some or all can be lost, fall silent, fail or hang."""

    period_s = 0.0
    quiet_s = 0.05

    def __init__(self, *, listed: bool = True, reason: str | None = None) -> None:
        self.gone: dict[str, str] = {}
        self.denied: dict[str, str] = {}
        self.untold: dict[str, dict[str, str]] = {}
        self.silent: set[str] = set()
        self.error: Exception | None = None
        self.running = threading.Event()
        self.running.set()
        self.readings = 0
        self._listed, self._reason = listed, reason

    def why_not(self) -> str | None:
        return self._reason

    def open(self) -> None: ...

    def devices(self) -> list[Device]:
        return [Device(gpu, "Fake") for gpu in GPUS if gpu not in self.gone] if self._listed else []

    def sample(self, pids: frozenset[int]) -> list[Sample]:
        self.readings += 1
        self.running.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        away = (
            self.silent | self.gone.keys() | self.denied.keys() | (set(GPUS) if ALL in self.gone else set())
        )
        return [Sample(names.GPU_POWER_MW, 7, hw_id=gpu, source="nvml") for gpu in GPUS if gpu not in away]

    def lost(self) -> Mapping[str, str]:
        return self.gone.copy()

    def refused(self) -> Mapping[str, str]:
        return self.denied.copy()

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        return self.untold

    def close(self) -> None: ...


Start = Callable[..., Reader]


@pytest.fixture
def start() -> Iterator[Start]:
    readers: list[tuple[Reader, Sampler]] = []

    def started(fake: Sampler, *, asked: bool = False) -> Reader:
        reader = Reader("nvml", lambda: fake, 0.01, lambda *_: None, lambda *_: None, asked=asked)
        readers.append((reader, fake))
        assert reader.looked.wait(DEADLINE_S)
        return reader

    yield started
    for reader, fake in readers:
        getattr(fake, "running", threading.Event()).set()
        reader.stop()
        assert reader.join(DEADLINE_S)


def off(reader: Reader) -> Absence | None:
    return reader.absence(time.monotonic())


def why(absence: Absence | None) -> str | None:
    return None if absence is None else absence.reason


def of(reader: Reader, gpu: str) -> Absence | None:
    return reader.told_of(time.monotonic())[gpu]


def test_a_gpu_that_is_lost_is_told_at_once_with_the_reason_and_the_moment(start: Start) -> None:
    fake = Fake()
    fake.quiet_s = DEADLINE_S
    reader = start(fake)
    wait_for(lambda: fake.readings > 2)
    assert off(reader) is None and of(reader, "GPU-1") is None
    before_s = time.monotonic()
    fake.gone = {"GPU-1": "it fell off the bus"}
    wait_for(lambda: of(reader, "GPU-1") is not None)
    absence = of(reader, "GPU-1")
    assert absence is not None and absence.reason == "it fell off the bus"
    assert before_s <= absence.since_s <= time.monotonic()
    readings = fake.readings
    wait_for(lambda: fake.readings > readings + 2)
    assert of(reader, "GPU-1") == absence, "the moment stays"
    assert (of(reader, "GPU-2"), off(reader)) == (None, None)
    assert [device.uuid for device in reader.devices] == list(GPUS), "in their order, the lost one too"
    fake.gone = {}
    wait_for(lambda: of(reader, "GPU-1") is None)


def test_a_driver_that_is_gone_turns_the_sampler_off_until_it_is_back(start: Start) -> None:
    fake = Fake()
    fake.quiet_s = DEADLINE_S
    reader = start(fake)
    wait_for(lambda: fake.readings > 2)
    fake.gone = {ALL: "the driver is not loaded"}
    wait_for(lambda: off(reader) is not None)
    absence = off(reader)
    assert absence is not None and (absence.reason, absence.missed) == ("the driver is not loaded", True)
    fake.gone = {}
    wait_for(lambda: off(reader) is None)


def test_silence_is_told_as_such_after_a_while_of_one_gpu_and_of_all(start: Start) -> None:
    fake = Fake()
    reader = start(fake)
    fake.silent = {"GPU-2"}
    wait_for(lambda: of(reader, "GPU-2") is not None)
    absence = of(reader, "GPU-2")
    assert absence is not None and absence.reason == SILENT
    assert time.monotonic() - absence.since_s > fake.quiet_s, "since it last told of it"
    wait_for(lambda: off(reader) is None and of(reader, "GPU-1") is None)  # of the other it tells
    fake.silent = set(GPUS)
    wait_for(lambda: why(off(reader)) == SILENT)
    absence = off(reader)
    assert absence is not None and absence.missed


def test_what_fails_for_longer_is_off_and_says_why(start: Start) -> None:
    fake = Fake()
    reader = start(fake)
    wait_for(lambda: fake.readings > 2)
    fake.error = OSError("the driver is confused")
    wait_for(lambda: why(off(reader)) == "OSError('the driver is confused')")
    fake.error = None
    wait_for(lambda: off(reader) is None)


def test_a_reading_that_hangs_is_told_while_it_does(start: Start) -> None:
    fake = Fake()
    reader = start(fake)
    wait_for(lambda: fake.readings > 2)
    fake.running.clear()
    wait_for(lambda: why(off(reader)) == "a reading of it hangs")
    fake.running.set()
    wait_for(lambda: off(reader) is None)


@pytest.mark.parametrize("asked", [False, True])
def test_what_was_never_here_is_missed_only_where_it_was_asked_for(start: Start, asked: bool) -> None:
    reader = start(Fake(reason="it is not here"), asked=asked)
    absence = off(reader)
    assert absence is not None and (absence.reason, absence.missed) == ("it is not here", asked)
    mute = Fake(listed=False)
    mute.silent = set(GPUS)
    reader = start(mute, asked=asked)
    wait_for(lambda: off(reader) is not None)  # here, but no GPU tells it anything
    absence = off(reader)
    assert absence is not None and absence.missed is asked


def test_devices_that_come_and_go_without_being_lost_are_listed_and_forgotten(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "RELIST_S", 0.01)

    class Migrating(Fake):
        listed: tuple[str, ...] = ("GPU-1",)

        def devices(self) -> list[Device]:
            return [Device(uuid, "Fake") for uuid in self.listed]

    fake = Migrating()
    reader = start(fake)
    for listed in (("GPU-1", "MIG-a"), ("GPU-1", "MIG-b"), ("GPU-1",)):
        fake.listed = listed
        wait_for(lambda listed=listed: tuple(d.uuid for d in reader.devices) == listed)


class Told:
    """A source that tells what it is given."""

    def __init__(
        self, name: str, told: Mapping[str, Absence | None], off: Absence | None = None, lists: bool = False
    ) -> None:
        self.name = name
        self.devices = [Device(uuid, "Fake") for uuid in told] if lists else []
        self.missing: dict[str, dict[str, str]] = {}
        self._told, self._off = told, off

    def absence(self, now_s: float) -> Absence | None:
        return self._off

    def told_of(self, now_s: float) -> Mapping[str, Absence | None]:
        return self._told


def gpus(*sources: Told) -> list[tuple[str | None, int | None, Mapping[str, int]]]:
    found = judge(sources, (), 100.0, UNIX_S * S)
    return [
        (gpu.reason, gpu.since_unix_ns and UNIX_S - gpu.since_unix_ns // S, gpu.silent) for gpu in found.gpus
    ]


def test_one_sampler_that_is_silent_of_a_gpu_makes_it_no_lost_gpu() -> None:
    nvml = Told("nvml", {"GPU-1": None}, lists=True)
    gpm = Told("gpm", {"GPU-1": Absence(SILENT, 60.0)})
    assert gpus(nvml, gpm) == [(None, None, {"gpm": (UNIX_S - 40) * S})]
    assert judge((nvml, gpm), (), 100.0, UNIX_S * S).missing() == {("gpm", "GPU-1"): SILENT}


def test_a_gpu_is_gone_when_one_knows_it_or_all_are_silent() -> None:
    lost = Absence("it fell off the bus", 90.0)
    nvml = Told("nvml", {"GPU-1": lost}, lists=True)
    assert gpus(nvml, Told("pcie", {"GPU-1": None})) == [("it fell off the bus", 10, {})]
    mute = Told("nvml", {"GPU-1": Absence(SILENT, 70.0)}, lists=True)
    assert gpus(mute, Told("gpm", {"GPU-1": Absence(SILENT, 60.0)})) == [(SILENT, 40, {})]


def test_a_gpu_that_is_listed_by_one_and_told_of_by_another_is_well() -> None:
    nvml = Told("nvml", {"MIG-1": Absence(SILENT, 10.0, missed=False)}, lists=True)
    assert gpus(nvml, Told("gpm", {"MIG-1": None})) == [(None, None, {})]
    assert gpus(nvml) == [(SILENT, 90, {})], "nobody ever told of it"


def test_what_a_gpu_refuses_to_one_sampler_makes_it_no_lost_gpu_and_has_its_reason() -> None:
    nvml = Told("nvml", {"GPU-1": None, "GPU-2": None}, lists=True)
    denied = Absence("GPM: no permission", 60.0, alone=True)
    found = judge((nvml, Told("gpm", {"GPU-1": denied, "GPU-2": None})), (), 100.0, UNIX_S * S)
    since = {"gpm": (UNIX_S - 40) * S}
    first = GpuState("GPU-1", "Fake", silent=since, refused={"gpm": "GPM: no permission"})
    assert found.gpus == (first, GpuState("GPU-2", "Fake"))
    assert found.missing() == {("gpm", "GPU-1"): "GPM: no permission"}
    mute = Told("nvml", {"GPU-1": Absence(SILENT, 70.0)}, lists=True)
    assert gpus(mute, Told("gpm", {"GPU-1": denied})) == [("GPM: no permission", 40, {})], "nobody reads it"


def test_why_a_quantity_is_missing_is_the_first_source_s_word_unless_another_tells_it() -> None:
    gpm = Told("gpm", {"GPU-1": None})
    gpm.missing = {
        "GPU-1": {names.GPU_SM_ACTIVE_RATIO: "GPM: no value", names.GPU_PCIE_TX_BYTES_PER_S: "GPM"}
    }
    nvml = Told("nvml", {"GPU-1": None, "GPU-2": None}, lists=True)
    nvml.missing = {
        "GPU-1": {names.GPU_ENERGY_MJ: "NVML: Not Supported", names.GPU_PCIE_TX_BYTES_PER_S: "NVML"}
    }
    told = {("GPU-1", names.GPU_ENERGY_MJ), ("GPU-2", names.GPU_SM_ACTIVE_RATIO)}
    first, second = judge((gpm, nvml), (), 100.0, UNIX_S * S, told).gpus
    assert first.missing == {names.GPU_SM_ACTIVE_RATIO: "GPM: no value", names.GPU_PCIE_TX_BYTES_PER_S: "GPM"}
    assert second.missing == {}


def test_what_a_sampler_says_of_missing_quantities_reaches_the_state_and_goes_when_it_is_told(
    start: Start,
) -> None:
    fake = Fake()
    reader = start(fake)
    fake.untold = {"GPU-1": {names.GPU_ENERGY_MJ: "NVML: Not Supported"}}
    wait_for(lambda: reader.missing == fake.untold)
    fake.untold = {}
    wait_for(lambda: reader.missing == {})


def test_what_another_sampler_tells_is_not_missing() -> None:
    fake, absent = Fake(), Fake(reason="it is not here")
    no_counter = "NVML: Not Supported"
    fake.untold = {"GPU-1": {names.GPU_POWER_MW: no_counter, names.GPU_ENERGY_MJ: no_counter}}
    made: dict[str, Sampler] = {name: fake if name == "nvml" else absent for name in SAMPLERS}
    sampling = Sampling.start((), gpu_sample_s=0.01, make=made.__getitem__, open_s=DEADLINE_S)
    try:
        wait_for(lambda: fake.readings > 2)
        first, second = sampling.health().gpus
    finally:
        sampling.close()
    assert (first.missing, second.missing) == ({names.GPU_ENERGY_MJ: no_counter}, {}), "power is told"


def test_a_sampler_that_is_refused_by_one_gpu_is_on_and_by_all_is_off_with_the_reason(start: Start) -> None:
    fake = Fake(listed=False)
    fake.denied = {"GPU-1": "no permission"}
    reader = start(fake)
    wait_for(lambda: why(reader.told_of(time.monotonic()).get("GPU-1")) == "no permission")
    absence = of(reader, "GPU-1")
    assert absence is not None and absence.alone and absence.missed and off(reader) is None
    fake.denied = dict.fromkeys(GPUS, "no permission")
    wait_for(lambda: why(off(reader)) == "no permission")
    fake.denied = {}
    wait_for(lambda: off(reader) is None and of(reader, "GPU-1") is None)


def test_a_gpu_that_was_cut_into_instances_is_not_missed_where_they_tell() -> None:
    nvml = Told("nvml", {"GPU-1": None, "MIG-1": None}, lists=True)
    nvml.devices[1] = Device("MIG-1", "Fake", {"mig_of": "GPU-1"})
    gpm = Told("gpm", {"GPU-1": Absence(SILENT, 60.0), "MIG-1": None})
    assert gpus(nvml, gpm) == [(None, None, {}), (None, None, {})]


def test_without_its_samplers_a_gpu_is_unread_and_the_samplers_alone_are_missing() -> None:
    off = Absence("the driver is not loaded", 50.0)
    found = judge([Told("nvml", {"GPU-1": None}, off, lists=True)], [SamplerState("host")], 100.0, UNIX_S * S)
    assert found.samplers == (
        SamplerState("host"),
        SamplerState("nvml", "the driver is not loaded", (UNIX_S - 50) * S, True),
    )
    assert found.gpus == (GpuState("GPU-1", "Fake", {}, UNREAD),)
    assert found.missing() == {("nvml", ""): "the driver is not loaded"}


def test_a_loss_and_a_return_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fake = Fake()
    fake.quiet_s = DEADLINE_S
    absent = Fake(reason="it is not here")
    made: dict[str, Sampler] = {name: fake if name == "nvml" else absent for name in SAMPLERS}
    sampling = Sampling.start((), gpu_sample_s=0.01, make=made.__getitem__, open_s=DEADLINE_S)
    try:
        wait_for(lambda: fake.readings > 2)
        caplog.clear()
        for gone, missing in (({"GPU-1": "it fell off the bus"}, True), ({}, False)):
            fake.gone = dict(gone)
            wait_for(lambda missing=missing: bool(sampling.health().missing()) is missing)
            for _ in range(3):
                sampling.sample([], NODE, 1)
    finally:
        sampling.close()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "GPU-1: not read: it fell off the bus"),
        ("INFO", "GPU-1: read again"),
    ]
    assert [one.name for one in sampling.health().samplers] == list(SAMPLERS), "the host's too"
