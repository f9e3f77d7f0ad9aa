"""MIG devices: a slice has its share of compute (by SMs where they are known) and of memory, an unknown one nothing."""

import pytest

from vtprof_analyzer.devices.catalogue import Device, find_device, look_up
from vtprof_analyzer.devices.roofs import choose_roof


def found(name: str) -> Device:
    device = find_device(name)
    assert device is not None, look_up(name)
    return device


@pytest.mark.parametrize(
    ("name", "whole", "compute", "memory"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "NVIDIA H100 SXM 80GB", 60 / 132, 4 / 8),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H100 SXM 80GB", 16 / 132, 1 / 8),
        ("NVIDIA H100 80GB HBM3 MIG 1g.20gb", "NVIDIA H100 SXM 80GB", 16 / 132, 2 / 8),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "NVIDIA H100 SXM 80GB", 16 / 132, 1 / 8),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA A100 SXM 40GB", 42 / 108, 4 / 8),
        ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "NVIDIA A100 SXM 40GB", 14 / 108, 4 / 8),
        ("NVIDIA A100-PCIE-40GB MIG 3G.20GB", "NVIDIA A100 PCIe 40GB", 42 / 108, 4 / 8),
        ("NVIDIA A100-SXM4-80GB MIG 7g.80gb", "NVIDIA A100 SXM 80GB", 98 / 108, 1),
        ("NVIDIA A30 MIG 2g.12gb", "NVIDIA A30", 2 / 4, 2 / 4),
        ("NVIDIA A30 MIG 1g.6gb", "NVIDIA A30", 1 / 4, 1 / 4),
        ("NVIDIA H200 MIG 1g.18gb", "NVIDIA H200 SXM", 16 / 132, 1 / 8),
        ("NVIDIA H200 MIG 4g.71gb", "NVIDIA H200 SXM", 64 / 132, 4 / 8),
        ("NVIDIA H200 NVL MIG 2g.35gb", "NVIDIA H200 NVL", 32 / 132, 2 / 8),
        ("NVIDIA H100 NVL MIG 3g.47gb", "NVIDIA H100 NVL", 60 / 132, 4 / 8),
        ("NVIDIA GH200 480GB MIG 1g.12gb", "NVIDIA GH200 96GB HBM3", 16 / 132, 1 / 8),
        ("NVIDIA H20 MIG 3g.48gb", "NVIDIA H20 96GB", 3 / 7, 4 / 8),
        ("NVIDIA B200 MIG 1g.23gb", "NVIDIA B200 SXM", 1 / 7, 1 / 8),
        ("NVIDIA B200 MIG 3g.90gb", "NVIDIA B200 SXM", 3 / 7, 4 / 8),
        ("NVIDIA GB200 MIG 2g.47gb", "NVIDIA GB200", 2 / 7, 2 / 8),
        ("h100 sxm 2g.20gb", "NVIDIA H100 SXM 80GB", 32 / 132, 2 / 8),
    ],
)
def test_a_slice_has_its_shares(name: str, whole: str, compute: float, memory: float) -> None:
    slice_, parent = found(name), found(whole)
    assert slice_.name.startswith(f"{whole} MIG ")
    assert slice_.peak_flops_per_s == {
        dtype: pytest.approx(peak * compute) for dtype, peak in parent.peak_flops_per_s.items()
    }
    assert slice_.bandwidth_bytes_per_s is not None
    assert parent.bandwidth_bytes_per_s is not None
    assert slice_.bandwidth_bytes_per_s == pytest.approx(parent.bandwidth_bytes_per_s * memory)
    assert slice_.memory_bytes == pytest.approx((parent.memory_bytes or 0) * memory, abs=8)
    assert (slice_.power_mw, slice_.link_bytes_per_s) == (None, None)
    assert slice_.confidence != "high"
    assert "MIG" in slice_.source
    # The name that it has here finds it again.
    assert found(slice_.name) == slice_


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("MIG 1g.10gb", "a GPU that is not named"),
        ("3g.20gb", "a GPU that is not named"),
        ("NVIDIA A100-SXM4-80GB MIG 3g.20gb", "no profile of NVIDIA A100 SXM 80GB"),
        ("NVIDIA H100 80GB HBM3 MIG 5g.40gb", "no profile of NVIDIA H100 SXM 80GB"),
        ("NVIDIA H100 80GB HBM3 MIG 7g.40gb", "no profile of NVIDIA H100 SXM 80GB"),
        ("NVIDIA H100 80GB HBM3 MIG 4c.3g.40gb", "no profile of NVIDIA H100 SXM 80GB"),
        ("NVIDIA H100 80GB HBM3 MIG 0g.0gb", "no profile of NVIDIA H100 SXM 80GB"),
        ("NVIDIA A30 MIG 3g.18gb", "no profile of NVIDIA A30"),
        ("NVIDIA L4 MIG 1g.3gb", "no MIG profiles are known of NVIDIA L4"),
        ("NVIDIA X900 MIG 1g.10gb", "not in the device table"),
    ],
)
def test_an_unknown_slice_says_why_and_is_never_taken_for_the_whole_gpu(name: str, why: str) -> None:
    assert find_device(name) is None
    said = str(look_up(name))
    assert why in said
    assert "\n" not in said
    choice = choose_roof(name, "bfloat16")
    assert choice.roof is None
    assert len(choice.notes) == 1
    assert why in choice.notes[0]


def test_the_roof_of_a_slice_is_its_own() -> None:
    roof = choose_roof("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "bfloat16").roof
    assert roof is not None
    assert roof.peak_flops_per_s == pytest.approx(989e12 * 60 / 132)
    assert roof.bandwidth_bytes_per_s == pytest.approx(3350e9 / 2)
