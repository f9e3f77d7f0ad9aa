"""The host's CPU and other clocks: peaks by cores and cycles, with the derivation, and no bandwidth that nobody knows."""

from pathlib import Path

import pytest

from vtprof_analyzer.devices.catalogue import Device, find_device
from vtprof_analyzer.devices.device import scaled
from vtprof_analyzer.devices.host import cpu_clock_mhz, cpu_name, host_device
from vtprof_analyzer.devices.roofs import choose_roof

CPUINFO = """\
processor\t: 0
model\t\t: 106
model name\t: Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz
cpu MHz\t\t: 2300.000
processor\t: 1
cpu MHz\t\t: 3400.5
"""


def cpu(name: str, cores: int | None, clock_mhz: float | None = None) -> Device:
    found = host_device(name, cores, clock_mhz)
    assert isinstance(found, Device), found
    return found


def test_an_estimate_is_cores_times_flop_times_clock_and_says_so() -> None:
    device = cpu("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", 40)
    # Two units of 16 float32 values, a multiply-add each: 64 FLOP a cycle.
    assert device.peak_flops_per_s == {"float32": 40 * 64 * 2.3e9}
    assert device.bandwidth_bytes_per_s is None
    assert device.confidence == "low"
    assert "40 cores x 64 (float32) FLOP a cycle and core x 2.3 GHz" in device.source
    amx = cpu("Intel(R) Xeon(R) Platinum 8480+", 56, 2000.0)
    assert amx.peak_flops_per_s == {"float32": 56 * 64 * 2e9, "bfloat16": 56 * 1024 * 2e9}
    assert cpu("AMD EPYC 7763 64-Core Processor", 64, 2450.0).peak_flops_per_s == {
        "float32": 64 * 32 * 2.45e9
    }


def test_the_table_goes_before_an_estimate_and_is_cut_to_the_cores() -> None:
    whole, part = cpu("AMD EPYC 9654 96-Core Processor", 96), cpu("AMD EPYC 9654 96-Core Processor", 24)
    assert whole == find_device("AMD EPYC 9654")
    assert part.peak_flops_per_s["bfloat16"] == pytest.approx(14.7e12 / 4)
    assert part.bandwidth_bytes_per_s == whole.bandwidth_bytes_per_s
    assert "24 of 96 cores" in part.source
    assert cpu("AMD EPYC 9654 96-Core Processor", 384) == whole
    assert cpu("AMD EPYC 9654 96-Core Processor", None) == whole


@pytest.mark.parametrize(
    ("name", "cores", "clock_mhz", "why"),
    [
        ("AMD EPYC", 2, 2600.0, "not in the device table"),
        ("x86_64", 2, 2600.0, "not in the device table"),
        ("AMD EPYC 7763 64-Core Processor", 64, None, "the clock is not known"),
        ("AMD EPYC 7763 64-Core Processor", 64, float("nan"), "the clock is not known"),
        ("AMD EPYC 7763 64-Core Processor", 64, 1e12, "the clock is not known"),
        ("AMD EPYC 7763 64-Core Processor", None, 2450.0, "the number of cores is not known"),
        ("AMD EPYC 7763 64-Core Processor", 10**9, 2450.0, "the number of cores is not known"),
        ("NVIDIA H200", 2, 2600.0, "is no CPU"),
    ],
)
def test_what_is_missing_is_said(name: str, cores: int | None, clock_mhz: float | None, why: str) -> None:
    assert why in str(host_device(name, cores, clock_mhz))


def test_an_estimated_cpu_has_no_roof_until_it_is_measured() -> None:
    choice = choose_roof(
        "Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", "float32", device_kind="cpu", cores=40
    )
    assert choice.roof is None
    assert len(choice.notes) == 1
    assert "5.89 TFLOP/s in float32" in choice.notes[0]
    assert "memory bandwidth is not known" in choice.notes[0]
    assert "vtprof calibrate" in choice.notes[0]


def test_a_run_on_some_cores_of_a_cpu_of_the_table_has_their_roof() -> None:
    roof = choose_roof("AMD EPYC 9654 96-Core Processor", "bfloat16", device_kind="cpu", cores=48).roof
    assert roof is not None
    assert roof.peak_flops_per_s == pytest.approx(14.7e12 / 2)


def test_name_and_clock_are_read_as_linux_tells_them(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO)
    assert cpu_name(file) == "Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz"
    assert cpu_clock_mhz(file) == 3400.5
    file.write_bytes(b"cpu MHz : fast\n\xff\xfe\nmodel name\n")
    assert cpu_name(file)
    assert cpu_clock_mhz(file) is None
    assert cpu_name(tmp_path / "none")
    assert cpu_clock_mhz(tmp_path / "none") is None


def test_clocks_scale_compute_and_memory_apart_c13() -> None:
    h100 = find_device("NVIDIA H100 80GB HBM3")
    assert h100 is not None
    # 132 SMs x 4096 FLOP a cycle x 1.83 GHz is the datasheet's peak: the clock that it holds at.
    assert h100.peak_flops_per_s["bfloat16"] == pytest.approx(132 * 4096 * 1.83e9, rel=0.001)
    slow = scaled(h100, sm_clock_mhz=1098.0, peak_clock_mhz=1830.0)
    assert slow.peak_flops_per_s["bfloat16"] == pytest.approx(0.6 * 989e12)
    assert slow.tf32_flops_per_s == pytest.approx(0.6 * 494.5e12)
    assert slow.bandwidth_bytes_per_s == h100.bandwidth_bytes_per_s
    assert "compute at 1098 of 1830 MHz" in slow.source
    memory = scaled(h100, memory_clock_mhz=1309.5, peak_memory_clock_mhz=2619.0)
    assert memory.bandwidth_bytes_per_s == pytest.approx(3350e9 / 2)
    assert memory.peak_flops_per_s == h100.peak_flops_per_s
    assert scaled(h100, 1980.0, 1830.0).peak_flops_per_s["bfloat16"] > 989e12


@pytest.mark.parametrize(
    "clocks",
    [
        (None, 1830.0),
        (1980.0, None),
        (0.0, 1830.0),
        (-5.0, 1830.0),
        (1980.0, 0.0),
        (float("nan"), 1830.0),
        (float("inf"), 1830.0),
        (1980.0, float("inf")),
        (99_999.0, 1830.0),
    ],
)
def test_no_clock_of_a_device_changes_nothing(clocks: tuple[float | None, float | None]) -> None:
    h100 = find_device("NVIDIA H100 80GB HBM3")
    assert h100 is not None
    assert scaled(h100, *clocks) is h100
