"""The device table: dense peaks, bandwidths, memory and power of accelerators and a few CPUs, and how to find a row.

``devices.csv`` has a row for each device. Peaks in TFLOP/s, dense: ``bf16``, ``fp16``, ``fp8``, ``int8``, ``fp4``,
``fp32`` (the ordinary units) and ``tf32`` (float32 on tensor cores, where the program allows it).
``bandwidth_gb_per_s`` is that of the memory, ``link_gb_per_s`` what one device sends to others of its kind in one
direction over all its links, described in ``link_source`` (NVLink, Infinity Fabric, ICI; PCIe where a card has no
more for certain). Empty cells are unknown, never zero. ``source`` and ``confidence`` are those of the peaks and the
memory; links and ``fp32``/``tf32`` are from vendors' sheets and filled in only where these are unambiguous.
"""

import csv
import difflib
import functools
import io
import re
from importlib import resources

from vtprof_analyzer.devices import mig
from vtprof_analyzer.devices.device import Device

__all__ = ["Device", "catalogue", "find_device", "look_up", "suggest"]

_TERA, _GIGA, _GIB = 1e12, 1e9, 1024**3

_PEAK_COLUMNS = {
    "bfloat16": "bf16_tflops",
    "float16": "fp16_tflops",
    "float8": "fp8_tflops",
    "int8": "int8_tops",
    "float4": "fp4_tflops",
    "float32": "fp32_tflops",
}


def _device(row: dict[str, str]) -> Device:
    return Device(
        name=row["name"],
        kind=row["kind"],
        name_pattern=re.compile(row["name_pattern"]),
        peak_flops_per_s={
            dtype: float(row[column]) * _TERA for dtype, column in _PEAK_COLUMNS.items() if row[column]
        },
        bandwidth_bytes_per_s=float(row["bandwidth_gb_per_s"]) * _GIGA,
        memory_bytes=round(float(row["memory_gib"]) * _GIB) if row["memory_gib"] else None,
        power_mw=round(float(row["tdp_w"]) * 1000) if row["tdp_w"] else None,
        source=row["source"],
        confidence=row["confidence"],
        tf32_flops_per_s=float(row["tf32_tflops"]) * _TERA if row["tf32_tflops"] else None,
        link_bytes_per_s=float(row["link_gb_per_s"]) * _GIGA if row["link_gb_per_s"] else None,
        link_source=row["link_source"] or None,
    )


@functools.cache
def catalogue() -> tuple[Device, ...]:
    """Return all devices, in the order of the table."""
    text = resources.files("vtprof_analyzer.devices").joinpath("devices.csv").read_text("utf-8")
    return tuple(_device(row) for row in csv.DictReader(io.StringIO(text)))


_FILLER = frozenset({"nvidia", "amd", "intel", "google", "geforce", "instinct", "gpu"})


def _words(name: str) -> list[str]:
    """Return the words of a device name, vendor left out: ``nvidia A100-SXM4-80GB`` is a100, sxm, 80gb."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return ["sxm" if re.fullmatch(r"sxm\d?", word) else word for word in words if word not in _FILLER]


def _is_model_number(word: str) -> bool:
    """Tell ``h200`` from ``server``, ``80gb`` and ``96c`` (cores)."""
    return any(letter.isdigit() for letter in word) and not re.fullmatch(r"\d+(gb|c)", word)


_LONGEST_NAME = 200
"""Characters; no driver reports more, and nothing is searched in what is longer."""
_SHOWN_CHARACTERS = 60


def find_device(name: str) -> Device | None:
    """Return the device of this name, as reported by the driver or as typed by a user, or None.

    A typed name needs only words that single out one row (``h200 nvl``), a model number among them; one that fits
    several rows finds nothing, for a guess between an SXM and a PCIe part would look like a measurement (C14).
    A MIG device is a slice of its row.
    """
    found = look_up(name)
    return found if isinstance(found, Device) else None


def look_up(name: str) -> Device | str:
    """Return the device of this name, or one line that says why it is not known."""
    wanted = name.strip()
    if len(wanted) > _LONGEST_NAME or not wanted.isprintable():
        return f"device {_shown(wanted)} is not in the device table"
    slice_ = mig.split(wanted)
    if slice_ is not None and not slice_.parent:
        return f"device {wanted!r} is a MIG slice of a GPU that is not named: give both, as in H100 SXM MIG 3g.40gb"
    whole = _row(slice_.parent if slice_ else wanted)
    if whole is None:
        return f"device {_shown(wanted)} is not in the device table"
    return mig.cut(whole, slice_) if slice_ else whole


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…")


def _row(wanted: str) -> Device | None:
    """Return the row of a whole device; a list of names is none."""
    if "," in wanted or ";" in wanted:
        return None
    for device in catalogue():
        if device.name.lower() == wanted.lower():
            return device
    matches = [device for device in catalogue() if device.name_pattern.search(wanted)] or [
        device for device in catalogue() if device.name_pattern.search(wanted.upper())
    ]
    if matches:
        return matches[0] if len(matches) == 1 else None
    words = set(_words(wanted))
    if not any(_is_model_number(word) for word in words):
        return None
    fitting = [device for device in catalogue() if words <= set(_words(device.name))]
    return fitting[0] if len(fitting) == 1 else None


_CLOSE = 0.75
"""Similarity of two words from which one may be a slip of the other."""


def suggest(name: str, limit: int = 5) -> list[str]:
    """Return names of the table that may have been meant, best first: a model number in common, or nearly."""
    name = name[:_LONGEST_NAME]
    words = [word for word in _words(name) if _is_model_number(word)] or _words(name)
    scores = {device.name: _closeness(words, _words(device.name)) for device in catalogue()}
    whole = " ".join(_words(name))
    ranked = sorted(
        (known for known in scores if scores[known] >= _CLOSE),
        key=lambda known: (-scores[known], -_similarity(whole, " ".join(_words(known))), known),
    )
    return ranked[:limit]


def _closeness(words: list[str], known: list[str]) -> float:
    """Return how well the best pair of words agrees: 1 for a word within the other, else their similarity."""
    pairs = [(word, other) for word in words for other in known if len(word) > 1 and len(other) > 1]
    return max((1.0 if w in o or o in w else _similarity(w, o) for w, o in pairs), default=0.0)


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
