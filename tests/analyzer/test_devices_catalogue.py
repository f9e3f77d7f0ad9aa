"""The device table: golden peaks, names as drivers report them and as people type them, and no guesses."""

import re
from dataclasses import replace

import pytest

from vtprof_analyzer.devices.catalogue import catalogue, find_device, suggest
from vtprof_analyzer.devices.roofs import (
    ATTAINABLE,
    DATASHEET,
    Roof,
    choose_roof,
    datasheet_roof,
    recorded_roof,
)


def test_golden_a100_g001_to_g005() -> None:
    device = find_device("NVIDIA A100-SXM4-80GB")
    assert device is not None
    roof = datasheet_roof(device, "bfloat16")
    assert isinstance(roof, Roof)
    assert (roof.peak_flops_per_s, roof.bandwidth_bytes_per_s) == (312e12, 2039e9)
    assert roof.ridge == pytest.approx(153.016, abs=0.05)
    eight = roof.times(8)
    assert eight.bandwidth_bytes_per_s == 16_312e9
    assert eight.ridge == roof.ridge


WITHOUT_FP8 = [
    "A100", "A800", "A30", "A40", "A10", "A10G", "Orin",  # Ampere
    "T4", "V100", "V100S", "MI250X",  # Turing, Volta, CDNA 2
    "v5e", "v5p", "Grace", "EPYC",
]  # fmt: skip
"""Arithmetic in FP8 begins with Ada, Hopper, CDNA 3, Gaudi 2 and TPU v6e."""
WITH_FP4 = ["B100", "B200", "GB200", "B300", "GB300", "Blackwell", "5090", "Thor", "GB10", "MI355X"]


def test_the_table_has_no_peak_only_of_types_that_a_device_does_not_compute_in() -> None:
    for device in catalogue():
        words = set(re.findall(r"\w+", device.name))
        assert (device.peak_ratio("float8") == 0) == bool(words & set(WITHOUT_FP8)), device.name
        assert (device.peak_ratio("float4") == 0) == (not words & set(WITH_FP4)), device.name


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", (0.0, 624 / 312, 0.0)),
        ("NVIDIA H100 80GB HBM3", (1979 / 989, 1979 / 989, 0.0)),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", (0.0, 2.0, 0.0)),
        ("NVIDIA B200 SXM", (2.0, 2.0, 4.0)),
        ("Tesla V100-SXM2-32GB", (0.0, None, 0.0)),  # 16 bits are float16 alone
        ("Intel Gaudi 3 OAM", (1.0, None, 0.0)),  # of integers nothing is known
    ],
)
def test_narrow_peaks_are_over_that_of_16_bits(
    reported: str, expected: tuple[float | None, float | None, float | None]
) -> None:
    device = find_device(reported)
    assert device is not None
    assert tuple(device.peak_ratio(dtype) for dtype in ("float8", "int8", "float4")) == pytest.approx(
        expected
    )
    nothing_known = replace(device, peak_flops_per_s={})
    assert nothing_known.peak_ratio("float8") is nothing_known.peak_ratio("int8") is None


@pytest.mark.parametrize(
    ("reported", "row"),
    [
        ("NVIDIA H200", "NVIDIA H200 SXM"),
        ("NVIDIA H200 NVL", "NVIDIA H200 NVL"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM 80GB"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 PCIe 80GB"),
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100 PCIe 40GB"),
        ("NVIDIA L4", "NVIDIA L4"),
        ("NVIDIA L40", "NVIDIA L40"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("NVIDIA A10", "NVIDIA A10"),
        ("NVIDIA A10G", "NVIDIA A10G"),
        ("Tesla T4", "NVIDIA T4"),
        ("Tesla V100-SXM2-32GB", "NVIDIA V100 SXM2"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 96GB HBM3"),
        ("NVIDIA GB200", "NVIDIA GB200"),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("AMD EPYC 9654 96-Core Processor", "AMD EPYC 9654 (Genoa 96c)"),
        ("h200", "NVIDIA H200 SXM"),
        ("a100 sxm 80gb", "NVIDIA A100 SXM 80GB"),
        ("l40s", "NVIDIA L40S"),
        ("rtx 4090", "NVIDIA GeForce RTX 4090"),
        ("mi300x", "AMD Instinct MI300X"),
    ],
)
def test_names_as_reported_and_as_typed(reported: str, row: str) -> None:
    device = find_device(reported)
    assert device is not None
    assert device.name == row


@pytest.mark.parametrize(
    "name",
    [
        "",
        "   ",
        "AMD EPYC",
        "NVIDIA",
        "GeForce RTX 4090 D",
        "H2000",
        "NVIDIA GeForce GTX 1080",
        "CPU",
        "server",
        "40GB PCIe",
    ],
)
def test_what_the_table_lacks_is_unknown(name: str) -> None:
    assert find_device(name) is None


def test_an_ambiguous_name_finds_nothing_and_lists_what_it_may_mean() -> None:
    assert find_device("H100") is None
    assert set(suggest("H100")[:3]) == {"NVIDIA H100 NVL", "NVIDIA H100 PCIe", "NVIDIA H100 SXM 80GB"}
    assert suggest("A100-SMX4-80GB")[0] == "NVIDIA A100 SXM 80GB"
    assert suggest("zzzzzzzz") == []
    assert suggest("bogus") == []
    assert all("H20" in known for known in suggest("H20000"))
    assert find_device("NVIDIA L40S, NVIDIA H800") is None


def test_every_row_has_a_source_and_is_found_by_its_own_name() -> None:
    assert len(catalogue()) > 40
    for device in catalogue():
        assert find_device(device.name) is device
        assert device.source
        assert device.confidence in ("high", "medium", "low")
        assert device.bandwidth_bytes_per_s is not None
        assert device.bandwidth_bytes_per_s > 1e11
        assert all(peak > 1e12 for peak in device.peak_flops_per_s.values())
    assert len({device.name for device in catalogue()}) == len(catalogue())


def test_a_type_without_a_peak_has_no_roof_and_a_reason() -> None:
    h200, t4 = find_device("NVIDIA H200"), find_device("Tesla T4")
    assert h200 is not None
    assert t4 is not None
    assert "NVIDIA H200 SXM has no float4 roof in the device table" in str(datasheet_roof(h200, "fp4"))
    assert "has no bfloat16 roof in the device table" in str(datasheet_roof(t4, "bfloat16"))
    assert "not recorded" in str(datasheet_roof(h200, None))


def test_a_measured_roof_goes_before_the_datasheet() -> None:
    choice = choose_roof("NVIDIA H200", "bfloat16", 700e12, 4.3e12, "vtprof calibrate", devices=2)
    assert [roof.kind for roof in choice.roofs] == [ATTAINABLE, DATASHEET]
    assert choice.roof is choice.roofs[0]
    assert choice.roof.peak_flops_per_s == 1400e12
    assert choice.notes == []


def test_an_unknown_cpu_has_the_roof_that_was_recorded_or_none() -> None:
    recorded = choose_roof("AMD EPYC", "float32", 1.9e11, 2.1e10, "numpy float32 GEMM and copy, 2 threads")
    assert recorded.roof is not None
    assert recorded.roof.ridge == pytest.approx(9.05, abs=0.01)
    assert recorded.notes == []
    unknown = choose_roof("AMD EPYC", "float32")
    assert (unknown.roof, unknown.roofs, unknown.device) == (None, [], None)
    (note,) = unknown.notes
    assert note == (
        "device 'AMD EPYC' is not in the device table: no roofline; name one with --device, or run"
        " `vtprof calibrate` on that machine"
    )
    # A CPU has no row to name: only measuring it helps.
    (hint,) = choose_roof("AMD EPYC", "float32", device_kind="cpu").notes
    assert "record with `vtprof-agent exec --calibrate-host`" in hint
    assert "--device" not in hint
    assert "device not recorded" in choose_roof(None, "bfloat16").notes[0]


@pytest.mark.parametrize(("peak", "bandwidth"), [(None, 1e9), (1e9, None), (0.0, 1e9), (1e9, -1.0)])
def test_half_a_measurement_is_no_roof(peak: float | None, bandwidth: float | None) -> None:
    assert recorded_roof(peak, bandwidth, "x", "float32") is None
