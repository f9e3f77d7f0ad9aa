"""MIG: a slice of a GPU as a device of its own, by the name that NVML and CUDA give it.

``NVIDIA H100 80GB HBM3 MIG 3g.40gb`` has 3 of the 7 compute slices and 4 of the 8 memory slices of an H100 SXM;
``1c.3g.40gb`` is a compute instance in it, with 1 compute slice and all of its memory. The profiles of NVIDIA's
MIG user guide, by memory slices of 8 (of 4 on an A30 or RTX PRO 6000 Blackwell):

    slices                          1          2                    4                    8
    A100 40 GB                      1g.5gb     1g.10gb  2g.10gb     3g.20gb  4g.20gb     7g.40gb
    A100, A800, H100, H800 80 GB    1g.10gb    1g.20gb  2g.20gb     3g.40gb  4g.40gb     7g.80gb
    H100 NVL 94 GB                  1g.12gb    1g.24gb  2g.24gb     3g.47gb  4g.47gb     7g.94gb
    H20, GH200 96 GB                1g.12gb    1g.24gb  2g.24gb     3g.48gb  4g.48gb     7g.96gb
    H200 141 GB                     1g.18gb    1g.35gb  2g.35gb     3g.71gb  4g.71gb     7g.141gb
    GH200 144 GB                    1g.18gb    1g.36gb  2g.36gb     3g.72gb  4g.72gb     7g.144gb
    B200 180 GB                     1g.23gb    1g.45gb  2g.45gb     3g.90gb  4g.90gb     7g.180gb
    GB200 186 GB                    1g.23gb    1g.47gb  2g.47gb     3g.93gb  4g.93gb     7g.186gb
    B300 269 GB                     1g.34gb    1g.67gb  2g.67gb     3g.135gb 4g.135gb    7g.269gb
    A30 24 GB (of 4)                1g.6gb     2g.12gb              4g.24gb
    RTX PRO 6000 96 GB (of 4)       1g.24gb    2g.48gb              4g.96gb

A slice is no even part of the compute: three of an H100 are 60 of its 132 SMs, seven of an A100 98 of 108. Where the
guide's SM counts are not known, slices stand for them.
"""

import re
from dataclasses import dataclass, replace

from vtprof_analyzer.devices.device import Device

_GIB = 1024**3
_NAME = re.compile(
    r"(?P<parent>.*?) ?\b(?:MIG )?(?:(?P<compute>\d)c\.)?(?P<slices>\d)g\.(?P<gb>\d{1,3})gb(?:[+-][\w.+-]{1,16})?",
    re.IGNORECASE,
)
_SEVEN = re.compile(r"\b(A100|A800|H100|H800|H200|H20|H20-3e|GH200|B200|GB200|B300|GB300)\b")
_FOUR = re.compile(r"\bA30\b|RTX PRO 6000 Blackwell")
_MEMORY_SLICES: dict[int, dict[int, tuple[int, ...]]] = {
    7: {1: (1, 2), 2: (2,), 3: (4,), 4: (4,), 7: (8,)},
    4: {1: (1,), 2: (2,), 4: (4,)},
}
"""Compute slices of a board, then those of an instance, to the memory slices that it can have."""
_SMS: tuple[tuple[re.Pattern[str], dict[int, int], int], ...] = (
    (re.compile(r"\b(A100|A800)\b"), {1: 14, 2: 28, 3: 42, 4: 56, 7: 98}, 108),
    (re.compile(r"\b(H100 SXM|H800 SXM|H100 NVL|H200|GH200)\b"), {1: 16, 2: 32, 3: 60, 4: 64, 7: 132}, 132),
    (re.compile(r"\bA30\b"), {1: 14, 2: 28, 4: 56}, 56),
)
"""SMs of an instance by its compute slices, and those of the board (device attributes in NVIDIA's MIG user guide)."""
_TOLERANCE = 0.1
"""The name rounds the memory to GB, and boards differ in what they keep for themselves."""


@dataclass(frozen=True)
class MigName:
    """The name of a MIG device, taken apart."""

    parent: str
    """Name of the whole GPU; empty when only the profile was given."""
    profile: str
    slices: int
    """Compute slices of the GPU instance."""
    compute: int
    """Compute slices of the compute instance: those of the GPU instance, or fewer."""
    memory_gb: int


def split(name: str) -> MigName | None:
    """Return the parts of a MIG device's name, or None when it is the name of no slice."""
    found = _NAME.fullmatch(name.strip())
    if found is None:
        return None
    slices = int(found["slices"])
    compute = int(found["compute"]) if found["compute"] else slices
    prefix = f"{compute}c." if found["compute"] else ""
    gb = int(found["gb"])
    return MigName(found["parent"].strip(" /,:"), f"{prefix}{slices}g.{gb}gb", slices, compute, gb)


def cut(device: Device, mig: MigName) -> Device | str:
    """Return the slice of a whole device, or one line that says why there is none of that name.

    Peaks go with compute slices, bandwidth and memory with memory slices; a slice has no links to other GPUs and no
    power limit of its own.
    """
    board = 7 if _SEVEN.search(device.name) else 4 if _FOUR.search(device.name) else None
    if board is None or not device.memory_bytes or device.bandwidth_bytes_per_s is None:
        return f"MIG {mig.profile}: no MIG profiles are known of {device.name}"
    total = 8 if board == 7 else 4
    wanted = mig.memory_gb * _GIB / device.memory_bytes * total
    memory = next(
        (m for m in _MEMORY_SLICES[board].get(mig.slices, ()) if abs(wanted / m - 1) <= _TOLERANCE), None
    )
    if memory is None or not 1 <= mig.compute <= mig.slices:
        return f"MIG {mig.profile} is no profile of {device.name}"
    share, counted = _share(device.name, mig, board)
    return replace(
        device,
        name=f"{device.name} MIG {mig.profile}",
        peak_flops_per_s={dtype: peak * share for dtype, peak in device.peak_flops_per_s.items()},
        tf32_flops_per_s=device.tf32_flops_per_s * share if device.tf32_flops_per_s else None,
        bandwidth_bytes_per_s=device.bandwidth_bytes_per_s * memory / total,
        memory_bytes=device.memory_bytes * memory // total,
        power_mw=None,
        link_bytes_per_s=None,
        link_source=None,
        source=f"{counted} of the compute and {memory}/{total} of the memory (NVIDIA MIG user guide) of"
        f" {device.name}: {device.source}",
        confidence="low" if device.confidence == "low" else "medium",
    )


def _share(name: str, mig: MigName, board: int) -> tuple[float, str]:
    """Return the share of the board's compute, and how it was counted: by SMs, else by slices."""
    for pattern, sms, whole in _SMS:
        if pattern.search(name) and mig.slices in sms:
            # A compute instance has its part of the SMs of its GPU instance.
            held = sms[mig.slices] * mig.compute / mig.slices
            return held / whole, f"{held:g}/{whole} SMs"
    return mig.compute / board, f"{mig.compute}/{board}"
