"""Names as drivers print them: each finds its own row and no other, and what is a different part finds none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.devices.catalogue import Device, catalogue, find_device, find_typed, look_up, suggest

PRINTED = {
    "NVIDIA A100-SXM4-40GB": "NVIDIA A100 SXM 40GB",
    "A100-SXM4-40GB": "NVIDIA A100 SXM 40GB",
    "NVIDIA A100-SXM4-80GB": "NVIDIA A100 SXM 80GB",
    "NVIDIA A100-PCIE-40GB": "NVIDIA A100 PCIe 40GB",
    "NVIDIA A100 80GB PCIe": "NVIDIA A100 PCIe 80GB",
    "NVIDIA A800-SXM4-80GB": "NVIDIA A800 SXM/PCIe 80GB",
    "NVIDIA A800 80GB PCIe": "NVIDIA A800 SXM/PCIe 80GB",
    "NVIDIA A30": "NVIDIA A30",
    "NVIDIA A40": "NVIDIA A40",
    "NVIDIA A10": "NVIDIA A10",
    "NVIDIA A10G": "NVIDIA A10G",
    "Tesla T4": "NVIDIA T4",
    "Tesla V100-SXM2-16GB": "NVIDIA V100 SXM2",
    "Tesla V100-SXM2-32GB": "NVIDIA V100 SXM2",
    "Tesla V100-SXM3-32GB": "NVIDIA V100 SXM2",
    "Tesla V100-PCIE-16GB": "NVIDIA V100 PCIe",
    "Tesla V100S-PCIE-32GB": "NVIDIA V100S PCIe",
    "NVIDIA L4": "NVIDIA L4",
    "NVIDIA L40": "NVIDIA L40",
    "NVIDIA L40S": "NVIDIA L40S",
    "NVIDIA L20": "NVIDIA L20",
    "NVIDIA H100 80GB HBM3": "NVIDIA H100 SXM 80GB",
    "NVIDIA H100 PCIe": "NVIDIA H100 PCIe",
    "NVIDIA H100 NVL": "NVIDIA H100 NVL",
    "NVIDIA H800": "NVIDIA H800 SXM",
    "NVIDIA H200": "NVIDIA H200 SXM",
    "NVIDIA H200 NVL": "NVIDIA H200 NVL",
    "NVIDIA H20": "NVIDIA H20 96GB",
    "NVIDIA H20-3e": "NVIDIA H20-3e 141GB",
    "NVIDIA GH200 480GB": "NVIDIA GH200 96GB HBM3",
    "NVIDIA GH200 120GB": "NVIDIA GH200 96GB HBM3",
    "NVIDIA GH200 144G HBM3e": "NVIDIA GH200 144GB HBM3e",
    "NVIDIA B200": "NVIDIA B200 SXM",
    "NVIDIA GB200": "NVIDIA GB200",
    "NVIDIA B300 SXM6 AC": "NVIDIA B300 SXM",
    "NVIDIA GB300": "NVIDIA GB300",
    "NVIDIA RTX 6000 Ada Generation": "NVIDIA RTX 6000 Ada",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "NVIDIA RTX PRO 6000 Blackwell Server",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "NVIDIA RTX PRO 6000 Blackwell Workstation",
    "NVIDIA GeForce RTX 4090": "NVIDIA GeForce RTX 4090",
    "NVIDIA GeForce RTX 5090": "NVIDIA GeForce RTX 5090",
    "Orin": "NVIDIA Jetson AGX Orin 64GB",
    "NVIDIA Thor": "NVIDIA Jetson T5000 (AGX Thor)",
    "NVIDIA GB10": "NVIDIA GB10 (DGX Spark)",
    "AMD Instinct MI250X": "AMD Instinct MI250X (package)",
    "AMD Instinct MI250X/MI250": "AMD Instinct MI250X (one GCD)",
    "AMD Instinct MI300X": "AMD Instinct MI300X",
    "AMD Instinct MI325X": "AMD Instinct MI325X",
    "AMD Instinct MI355X": "AMD Instinct MI355X",
    "HL-225": "Intel Gaudi 2",
    "HL-325L": "Intel Gaudi 3 OAM",
    "TPU v5 lite": "Google TPU v5e",
    "TPU v5p": "Google TPU v5p",
    "TPU v6 lite": "Google TPU v6e",
    "AMD EPYC 9654 96-Core Processor": "AMD EPYC 9654 (Genoa 96c)",
    "AMD EPYC 9755 128-Core Processor": "AMD EPYC 9755 (Turin 128c)",
}
OTHER_PARTS = [
    "NVIDIA A100-SXM-64GB",
    "NVIDIA A100X",
    "NVIDIA A800 40GB Active",
    "NVIDIA A2",
    "NVIDIA A16",
    "NVIDIA A40-8Q",
    "GRID A100-10C",
    "GRID T4-8C",
    "NVIDIA L2",
    "NVIDIA L40G",
    "NVIDIA H800 PCIe",
    "NVIDIA H100",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 5090 D",
    "NVIDIA GeForce RTX 5090 Laptop GPU",
    "NVIDIA RTX A6000",
    "Quadro RTX 6000",
    "NVIDIA Jetson Orin Nano",
    "AMD Instinct MI300A",
    "AMD Instinct MI350X",
    "AMD Radeon RX 7900 XTX",
    "TPU v4",
    "Intel(R) Data Center GPU Max 1550",
    "Apple M2 Ultra",
]


@pytest.mark.parametrize(("printed", "row"), PRINTED.items())
def test_a_printed_name_hits_its_own_row_and_no_other(printed: str, row: str) -> None:
    assert [device.name for device in catalogue() if device.name_pattern.search(printed)] == [row]
    found = find_device(printed)
    assert found is not None
    assert found.name == row


@pytest.mark.parametrize("printed", OTHER_PARTS)
def test_another_part_of_a_like_name_is_unknown(printed: str) -> None:
    assert find_device(printed) is None
    assert look_up(printed) == f"device {printed!r} is not in the device table"


TYPED = {
    "h100": ("NVIDIA H100 SXM 80GB", "there are also H100 PCIe, H100 NVL"),
    "nvidia h100": ("NVIDIA H100 SXM 80GB", "there are also H100 PCIe, H100 NVL"),
    "a100": ("NVIDIA A100 SXM 80GB", "there are also A100 SXM 40GB, A100 PCIe 40GB, A100 PCIe 80GB"),
    "a100-80gb": ("NVIDIA A100 SXM 80GB", "there is also A100 PCIe 80GB"),
    "A100 80GB": ("NVIDIA A100 SXM 80GB", "there is also A100 PCIe 80GB"),
    "a100 40 GB": ("NVIDIA A100 SXM 40GB", "there is also A100 PCIe 40GB"),
    "a100sxm": ("NVIDIA A100 SXM 80GB", "there is also A100 SXM 40GB"),
    "a100 pcie": ("NVIDIA A100 PCIe 80GB", "there is also A100 PCIe 40GB"),
    "h200 141gb": ("NVIDIA H200 SXM", "there is also H200 NVL"),
    "Tesla V100": ("NVIDIA V100 SXM2", "there is also V100 PCIe"),
    "gh200": ("NVIDIA GH200 144GB HBM3e", "there is also GH200 96GB HBM3"),
    "rtx pro 6000": (
        "NVIDIA RTX PRO 6000 Blackwell Server",
        "there is also RTX PRO 6000 Blackwell Workstation",
    ),
    "mi300": ("AMD Instinct MI300X", "taken as"),
    "mi250": ("AMD Instinct MI250X (package)", "there is also MI250X (one GCD)"),
    "orin": ("NVIDIA Jetson AGX Orin 64GB", "taken as"),
    "dgx spark": ("NVIDIA GB10 (DGX Spark)", "taken as"),
    # One row alone is meant: nothing to say.
    "h200": ("NVIDIA H200 SXM", None),
    "rtx4090": ("NVIDIA GeForce RTX 4090", None),
    "rtx-4090": ("NVIDIA GeForce RTX 4090", None),
    "rtx6000ada": ("NVIDIA RTX 6000 Ada", None),
    "h100sxm5": ("NVIDIA H100 SXM 80GB", None),
    "h100nvl": ("NVIDIA H100 NVL", None),
    "h100 94gb": ("NVIDIA H100 NVL", None),
    "gh200 96gb": ("NVIDIA GH200 96GB HBM3", None),
    "b200 192gb": ("NVIDIA B200 SXM", None),
    "amdmi300x": ("AMD Instinct MI300X", None),
    "b300": ("NVIDIA B300 SXM", None),
    "l40": ("NVIDIA L40", None),
    "tpuv5e": ("Google TPU v5e", None),
    "gaudi3": ("Intel Gaudi 3 OAM", None),
}


@pytest.mark.parametrize(("typed", "meant"), TYPED.items())
def test_a_typed_chip_is_its_usual_server_part_and_the_note_says_so(
    typed: str, meant: tuple[str, str | None]
) -> None:
    device, note = find_typed(typed)
    assert device is not None
    row, said = meant
    assert device.name == row
    if said is None:
        assert note is None
    else:
        assert note is not None
        assert note.startswith(f"{typed}: taken as {row}")
        assert said in note


@pytest.mark.parametrize(
    "typed",
    [
        "rtx 6000",  # Ada and two Blackwell cards, and a Quadro that has no row
        "6000",
        "a100 94gb",
        "v100 16gb",
        "mi300a",
        "mi350",
        "rtx4090d",
        "orin nano",
        "jetson",
        "blackwell",
        "80gb",
        "sxm",
        "h100,a100",
        "h100 a100",
        "h100x",
        "8xh100",
        "a100 3g.40gbx",
        "",
    ],
)
def test_a_typed_name_of_several_chips_or_of_none_finds_nothing(typed: str) -> None:
    assert find_typed(typed) == (None, None)


def test_a_slice_of_a_typed_chip_is_cut_from_its_server_part() -> None:
    device, note = find_typed("a100 mig 3g.40gb")
    assert device is not None
    assert device.name == "NVIDIA A100 SXM 80GB MIG 3g.40gb"
    assert note is not None
    assert note.startswith("a100: taken as NVIDIA A100 SXM 80GB")
    assert find_typed("a100 mig 3g.33gb") == (None, None)


@pytest.mark.parametrize("typed", [typed for typed, (_, said) in TYPED.items() if said])
def test_what_a_driver_reports_is_never_guessed(typed: str) -> None:
    assert find_device(typed) is None


@pytest.mark.parametrize("printed", PRINTED)
def test_a_printed_name_typed_by_a_user_is_the_same_row(printed: str) -> None:
    assert find_typed(printed) == (find_device(printed), None)


def test_suggestions_begin_with_the_rows_of_that_chip() -> None:
    assert {"H100" in near for near in suggest("h100x")} == {True}
    assert {"A100" in near for near in suggest("a100")[:4]} == {True}
    assert {"GH200" in near for near in suggest("gh200")[:2]} == {True}
    assert {"H100" in near for near in suggest("h100sxm5 120gb")[:3]} == {True}


def test_devices_of_the_sources_s165_to_s168() -> None:
    a100, h200, l40s = (find_device(name) for name in ("NVIDIA A100-SXM4-80GB", "NVIDIA H200", "NVIDIA L40S"))
    assert a100 and h200 and l40s
    assert (a100.peak_flops_per_s["float16"], a100.bandwidth_bytes_per_s) == (312e12, 2039e9)
    # S166: an H100 for each form factor, and no name that would mean all of them.
    h100 = [device for device in catalogue() if "H100" in device.name]
    assert {device.peak_flops_per_s["bfloat16"] for device in h100} == {989e12, 756e12, 835e12}
    assert all({"bfloat16", "float16", "float8", "int8", "float32"} <= set(d.peak_flops_per_s) for d in h100)
    # S167: the H100's compute with more bandwidth. S168: a GDDR device.
    assert h200.peak_flops_per_s == h100[0].peak_flops_per_s
    assert h200.bandwidth_bytes_per_s == 4800e9
    assert l40s.bandwidth_bytes_per_s == 864e9


def test_links_are_those_of_one_direction() -> None:
    def link(name: str) -> float | None:
        found = find_device(name)
        assert found is not None
        return found.link_bytes_per_s

    # Vendors print both directions together: 600, 900, 1800 and 896 GB/s.
    assert link("NVIDIA A100-SXM4-80GB") == 300e9
    assert link("NVIDIA H200") == 450e9
    assert link("NVIDIA B200") == 900e9
    assert link("AMD Instinct MI300X") == 448e9
    # 16 lanes of 16 GT/s in 128b/130b: 31.5 GB/s.
    assert link("NVIDIA L40S") == pytest.approx(16 * 16e9 * 128 / 130 / 8, rel=0.001)
    assert link("NVIDIA GB10") is None
    for device in catalogue():
        assert device.link_bytes_per_s is None or device.link_source
        assert device.kind != "cpu" or device.link_bytes_per_s is None


def test_float32_is_slower_than_tensor_cores_and_tf32_is_kept_apart() -> None:
    for device in catalogue():
        peaks = device.peak_flops_per_s
        if "float32" in peaks:
            assert peaks["float32"] < max(peaks.get("bfloat16", 0), peaks.get("float16", 0)), device.name
            assert device.tf32_flops_per_s is None or device.tf32_flops_per_s >= peaks["float32"]
    a100 = find_device("a100 sxm 80gb")
    assert a100 is not None
    assert (a100.peak_flops_per_s["float32"], a100.tf32_flops_per_s) == (19.5e12, 156e12)


@pytest.mark.parametrize(
    "name",
    [
        "H200" * 100_000,
        "NVIDIA\x00H200",
        "NVIDIA \x1b[31mH200",
        "a" * 200 + " MIG 1g.10gb",
        "1g." * 60,
        "\n" * 500,
    ],
)
def test_hostile_names_are_unknown_in_one_short_line(name: str) -> None:
    said = look_up(name)
    assert isinstance(said, str)
    assert len(said) < 200
    assert said.isprintable()
    assert len(suggest(name)) <= 5
    assert find_typed(name) == (None, None)


@given(st.text(max_size=300))
def test_any_text_is_a_device_or_one_printable_line(name: str) -> None:
    found = look_up(name)
    assert isinstance(found, Device) or found.isprintable()
    suggest(name)
    device, note = find_typed(name)
    assert note is None or (device is not None and note.isprintable())
