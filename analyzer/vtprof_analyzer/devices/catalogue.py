"""The device table: dense peaks, bandwidth, memory and power of accelerators and a few CPUs, and how to find a row."""

import csv
import difflib
import functools
import io
import re
from dataclasses import dataclass
from importlib import resources

_TERA, _GIGA, _GIB = 1e12, 1e9, 1024**3

_PEAK_COLUMNS = {
    "bfloat16": "bf16_tflops",
    "float16": "fp16_tflops",
    "float8": "fp8_tflops",
    "int8": "int8_tops",
    "float4": "fp4_tflops",
}


@dataclass(frozen=True)
class Device:
    """One row of the table; peaks are dense, not sparse."""

    name: str
    kind: str
    """``gpu``, ``accelerator`` or ``cpu``."""
    name_pattern: re.Pattern[str]
    """Matches the name that NVML (or the operating system, for a CPU) reports."""
    peak_flops_per_s: dict[str, float]
    """By data type; a type that is missing is unknown."""
    bandwidth_bytes_per_s: float
    memory_bytes: int | None
    power_mw: int | None
    source: str
    confidence: str


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


def find_device(name: str) -> Device | None:
    """Return the device of this name, as reported by the driver or as typed by a user, or None.

    A typed name needs only words that single out one row (``h200 nvl``), a model number among them; one that fits
    several rows finds nothing, for a guess between an SXM and a PCIe part would look like a measurement (C14).
    """
    wanted = name.strip()
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
