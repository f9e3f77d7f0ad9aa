"""AMD SMI against a double of the binding's surface (ROCm 6 and 7): two dies, of which one offers less."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from vtprof_agent.samplers import amd as amd_module
from vtprof_agent.samplers.amd import AmdSampler
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

MS, S = 1_000_000, 1_000_000_000


class AmdSmiException(Exception):
    """As in the binding."""


class AmdSmiLibraryException(AmdSmiException):
    """As in the binding: what the library answered."""

    def __init__(self, err_code: int) -> None:
        super().__init__(f"Error code: {err_code}")
        self.err_code = err_code


class _Smi:
    """The functions that the sampler calls; die 1 is the second of a package: no power, no energy, no counters."""

    AmdSmiException = AmdSmiException
    AmdSmiUtilizationCounterType = SimpleNamespace(COARSE_GRAIN_GFX_ACTIVITY=0, COARSE_GRAIN_MEM_ACTIVITY=1)
    NOT_SUPPORTED: ClassVar = 2
    NO_DEVICE: ClassVar = 46

    def __init__(self, energy_key: str = "energy_accumulator") -> None:
        self.energy_key = energy_key
        self.gfx = self.mem = 0
        self.ticks = 1_000_000
        self.calls: list[str] = []
        self.fails_init = False
        self.lost: set[int] = set()

    def amdsmi_init(self) -> None:
        if self.fails_init:
            raise AmdSmiLibraryException(34)

    def amdsmi_shut_down(self) -> None:
        self.calls.append("shut_down")

    def amdsmi_get_processor_handles(self) -> list[int]:
        return [0, 1]

    def amdsmi_get_gpu_device_uuid(self, handle: int) -> str:
        return f"uuid-{handle}"

    def amdsmi_get_gpu_asic_info(self, handle: int) -> dict[str, Any]:
        return {"market_name": "AMD Instinct MI250X"}

    def amdsmi_get_energy_count(self, handle: int) -> dict[str, Any]:
        self._offered(handle, "energy")
        return {self.energy_key: self.ticks, "counter_resolution": 15.259, "timestamp": 1}

    def amdsmi_get_utilization_count(self, handle: int, kinds: list[int]) -> list[dict[str, Any]]:
        self._here(handle)
        value = (self.gfx, self.mem) if handle == 0 else (0xFFFFFFFF, 0xFFFFFFFF)
        return [{"timestamp": 1}, *({"type": kind, "value": value[kind]} for kind in kinds)]

    def amdsmi_get_gpu_activity(self, handle: int) -> dict[str, Any]:
        self._here(handle)
        return {"gfx_activity": 40, "umc_activity": 30, "mm_activity": "N/A"}

    def amdsmi_get_power_info(self, handle: int) -> dict[str, Any]:
        self._here(handle)
        power = 320 if handle == 0 else "N/A"
        return {"current_socket_power": power, "average_socket_power": "N/A"}

    def amdsmi_get_gpu_vram_usage(self, handle: int) -> dict[str, Any]:
        self._here(handle)
        return {"vram_used": 100, "vram_total": 65520}

    def _here(self, handle: int) -> None:
        if handle in self.lost:
            raise AmdSmiLibraryException(self.NO_DEVICE)

    def _offered(self, handle: int, what: str) -> None:
        self._here(handle)
        self.calls.append(f"{what}-{handle}")
        if handle == 1:
            raise AmdSmiLibraryException(self.NOT_SUPPORTED)


class _Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def _opened(smi: _Smi, clock: _Clock) -> AmdSampler:
    sampler = AmdSampler(smi, clock)
    assert sampler.why_not() is None
    sampler.open()
    return sampler


def _told(sampler: AmdSampler, die: str) -> dict[str, Any]:
    return {s.key: s.value for s in sampler.sample(frozenset()) if s.hw_id == die}


@pytest.mark.parametrize("energy_key", ["energy_accumulator", "power"])
def test_each_die_is_read_in_our_units(energy_key: str) -> None:
    told = _told(_opened(_Smi(energy_key), _Clock()), "uuid-0")
    assert told[names.GPU_ENERGY_MJ] == pytest.approx(15_259)  # a million ticks of 15.259 uJ
    assert told[names.GPU_POWER_MW] == 320_000
    assert told[names.GPU_MEMORY_USED_BYTES] == 100 << 20
    assert told[names.GPU_MEMORY_TOTAL_BYTES] == 65520 << 20


def test_activity_is_the_mean_since_the_last_reading_and_never_called_bandwidth() -> None:
    smi, clock = _Smi(), _Clock()
    sampler = _opened(smi, clock)
    assert names.GPU_BUSY_RATIO not in _told(sampler, "uuid-0"), "a counter says nothing alone"
    clock.now_ns = 2 * S
    # The firmware adds the percentage each ms: 2000 ms at 75 % and at 50 %.
    smi.gfx, smi.mem = 2000 * 75, 2000 * 50
    samples = [s for s in sampler.sample(frozenset()) if s.hw_id == "uuid-0"]
    told = {s.key: s for s in samples}
    assert told[names.GPU_BUSY_RATIO].value == pytest.approx(0.75)
    assert told[names.GPU_MEMORY_BUSY_RATIO].value == pytest.approx(0.5)
    assert (told[names.GPU_BUSY_RATIO].start_ns, told[names.GPU_BUSY_RATIO].end_ns) == (0, 2 * S)
    assert names.GPU_DRAM_BANDWIDTH_RATIO not in told


def test_a_counter_that_wrapped_tells_nothing_once() -> None:
    smi, clock = _Smi(), _Clock()
    smi.gfx = smi.mem = 0xFFFF0000
    sampler = _opened(smi, clock)
    sampler.sample(frozenset())
    clock.now_ns, smi.gfx, smi.mem = S, 100, 100
    assert names.GPU_BUSY_RATIO not in _told(sampler, "uuid-0")
    clock.now_ns, smi.gfx = 2 * S, 100 + 1000 * 20
    assert _told(sampler, "uuid-0")[names.GPU_BUSY_RATIO] == pytest.approx(0.2)


def test_a_die_that_offers_less_is_read_as_far_as_it_goes_and_not_asked_at_each_reading() -> None:
    smi, clock = _Smi(), _Clock()
    sampler = _opened(smi, clock)
    for second in range(5):
        clock.now_ns = second * S
        told = _told(sampler, "uuid-1")
    assert told == {
        names.GPU_BUSY_RATIO: 0.4,
        names.GPU_MEMORY_BUSY_RATIO: 0.3,
        names.GPU_MEMORY_USED_BYTES: 100 << 20,
        names.GPU_MEMORY_TOTAL_BYTES: 65520 << 20,
    }
    assert (smi.calls.count("energy-0"), smi.calls.count("energy-1")) == (5, 1)


def test_a_die_of_which_nothing_can_be_read_is_lost_and_back_when_it_tells() -> None:
    smi, clock = _Smi(), _Clock()
    sampler = _opened(smi, clock)
    sampler.sample(frozenset())
    assert sampler.lost() == {}, "a die that offers little is not lost"
    smi.lost = {0}
    for second in range(1, 40):
        clock.now_ns = second * S
        sampler.sample(frozenset())
        assert sampler.lost().keys() == {"uuid-0"}
    smi.lost = set()
    clock.now_ns = 60 * S
    sampler.sample(frozenset())
    assert sampler.lost() == {}


def test_dies_are_the_devices_and_closing_disconnects_once() -> None:
    smi = _Smi()
    sampler = _opened(smi, _Clock())
    assert [(d.uuid, d.name) for d in sampler.devices()] == [
        ("uuid-0", "AMD Instinct MI250X"),
        ("uuid-1", "AMD Instinct MI250X"),
    ]
    sampler.close()
    sampler.close()
    assert smi.calls.count("shut_down") == 1


def test_without_binding_library_or_driver_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amd_module, "find_spec", lambda _: None)
    assert "amdsmi is not installed" in str(AmdSampler().why_not())

    def broken(name: str) -> Any:
        raise KeyError("amd_smi")  # what the binding raises where it does not find its library

    monkeypatch.setattr(amd_module, "find_spec", lambda _: SimpleNamespace())
    monkeypatch.setattr(amd_module, "import_module", broken)
    assert "libamd_smi.so cannot be loaded" in str(AmdSampler().why_not())
    smi = _Smi()
    smi.fails_init = True
    sampler = AmdSampler(smi)
    assert "is the amdgpu driver loaded" in str(sampler.why_not())
    with pytest.raises(BackendError, match="AMD SMI: Error code: 34"):
        sampler.open()
