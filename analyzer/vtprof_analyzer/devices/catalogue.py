"""The device table: dense peaks, bandwidths, memory and power of accelerators and a few CPUs, and how to find a row.

``devices.csv`` has a row for each device. Peaks in TFLOP/s, dense: ``bf16``, ``fp16``, ``fp8``, ``int8``, ``fp4``,
``fp32`` (the ordinary units) and ``tf32`` (float32 on tensor cores, where the program allows it).
``bandwidth_gb_per_s`` is that of the memory, ``link_gb_per_s`` what one device sends to others of its kind in one
direction over all its links, described in ``link_source`` (NVLink, Infinity Fabric, ICI; PCIe where a card has no
more for certain). Empty cells are unknown, never zero; those of ``fp8`` and ``fp4`` alone say that the device has no
units for them. ``source`` and ``confidence`` are those of the peaks and the memory; links and ``fp32``/``tf32`` are
from vendors' sheets and filled in only where these are unambiguous.
"""

import csv
import difflib
import functools
import io
import re
from pathlib import Path

from vtprof_analyzer.devices import mig
from vtprof_analyzer.devices.device import Device

__all__ = ["Device", "catalogue", "find_device", "find_typed", "look_up", "suggest"]

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
    text = Path(__file__).with_name("devices.csv").read_text("utf-8")
    return tuple(_device(row) for row in csv.DictReader(io.StringIO(text)))


_FILLER = frozenset({"nvidia", "amd", "intel", "google", "geforce", "instinct", "gpu"})


def _words(name: str) -> list[str]:
    """Return the words of a device name, vendor left out: ``nvidia A100-SXM4-80GB`` is a100, sxm, 80gb."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return ["sxm" if re.fullmatch(r"sxm\d?", word) else word for word in words if word not in _FILLER]


def _is_model_number(word: str) -> bool:
    """Tell ``h200`` from ``server``, ``80gb`` and ``96c`` (cores)."""
    return any(letter.isdigit() for letter in word) and not re.fullmatch(r"\d+(gb|c)", word)


_LIKE_NUMBERS = frozenset({"orin", "thor", "spark"})
"""Chips with a name in place of a number."""
_SXM = re.compile(r"sxm[2-6]?")
_MEMORY = re.compile(r"([1-9]\d*)gb")
_MEMORY_TOLERANCE = 0.1
"""A card is named by what its memory chips hold; the table has what is left to the user where that is known."""


@functools.cache
def _vocabulary() -> frozenset[str]:
    """Return all words that a typed name may be put together from."""
    named = {word for device in catalogue() for word in re.findall(r"[a-z0-9]+", device.name.lower())}
    return frozenset({*named, *_FILLER, "tesla", "hbm2", "hbm2e", "hbm3", "hbm3e", "nvl", "pcie"})


def _split_word(word: str) -> list[str]:
    """Return the known words that a word is glued from (``rtx4090``, ``h100sxm5``); itself when there are none."""
    words = _vocabulary()
    best: list[list[str] | None] = [[]] + [None] * len(word)
    for end in range(1, len(word) + 1):
        for start in range(end):
            before, last = best[start], word[start:end]
            if before is not None and (last in words or _SXM.fullmatch(last) or _MEMORY.fullmatch(last)):
                best[end] = [*before, last]
                break
    return best[-1] or [word]


def _typed_words(name: str) -> list[str]:
    """Return the words of a typed name; ``80 GB`` and ``80G`` are 80gb, an MI300 is the MI300X."""
    joined = re.sub(r"(\d)\s*gi?b?\b", r"\1gb", name[:_LONGEST_NAME].lower())
    words = _words(" ".join(part for word in re.findall(r"[a-z0-9]+", joined) for part in _split_word(word)))
    return [
        f"{word}x"
        if word.startswith("mi") and word not in _vocabulary() and f"{word}x" in _vocabulary()
        else word
        for word in words
        if word != "tesla"
    ]


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


def find_typed(name: str) -> tuple[Device | None, str | None]:
    """Return the device that a user means by a name, and one line on what it was taken as where it fits several rows.

    For users' flags only: a bare chip name is taken as its usual server part, the SXM row with the largest memory. What
    a driver reports goes through `find_device`, which guesses nothing (C14). A name that fits rows of different chips,
    or none, finds nothing.
    """
    said = name.strip()
    found = find_device(said)
    if found is not None or len(said) > _LONGEST_NAME or not said.isprintable() or re.search("[,;]", said):
        return found, None
    slice_ = mig.split(said)
    parent = slice_.parent if slice_ else said
    words = _typed_words(parent)
    if not any(_is_model_number(word) or word in _LIKE_NUMBERS for word in words):
        return None, None
    fitting = [device for device in catalogue() if _fits(words, device)]
    if len({_chip(device) for device in fitting}) != 1:
        return None, None
    whole = max(fitting, key=_server_rank)
    device = mig.cut(whole, slice_) if slice_ else whole
    if isinstance(device, str):
        return None, None
    others = [_short(other) for other in fitting if other is not whole]
    if not others and any(_is_model_number(word) and word in parent.lower() for word in words):
        return device, None
    there = f"; there {'is' if len(others) == 1 else 'are'} also {', '.join(others)}" if others else ""
    return device, f"{parent[:_SHOWN_CHARACTERS]}: taken as {whole.name}{there}"


def _fits(words: list[str], device: Device) -> bool:
    """Tell whether a row has all words, or memory of about that size; the kind of memory counts where it is named."""
    known = set(_words(device.name))
    kinds = any(word.startswith("hbm") for word in known)
    return all(
        word in known or _has_memory(word, device) or (word.startswith("hbm") and not kinds) for word in words
    )


def _has_memory(word: str, device: Device) -> bool:
    size = _MEMORY.fullmatch(word)
    if size is None or device.memory_bytes is None:
        return False
    return abs(device.memory_bytes / (int(size[1]) * _GIB) - 1) <= _MEMORY_TOLERANCE


_FORMS = re.compile(r"sxm\d?|pcie|nvl|oam|server|workstation|hbm\w*|\d+gb")
"""Words that tell the parts of one chip apart."""


def _chip(device: Device) -> tuple[str, ...]:
    """Return the words of a row's name without form factor and memory: what its parts have in common."""
    return tuple(word for word in _words(device.name.partition("(")[0]) if not _FORMS.fullmatch(word))


def _server_rank(device: Device) -> tuple[bool, bool, int]:
    words = " ".join(_words(device.name))
    return "sxm" in words, "workstation" not in words, device.memory_bytes or 0


def _short(device: Device) -> str:
    """Return a row's name without the vendor's."""
    return re.sub(r"^(NVIDIA( GeForce)?|AMD( Instinct)?|Intel|Google) ", "", device.name)


_CLOSE = 0.75
"""Similarity of two words from which one may be a slip of the other."""


def suggest(name: str, limit: int = 5) -> list[str]:
    """Return names of the table that may have been meant, best first: a model number in common, or nearly."""
    typed = _typed_words(name)
    words = [word for word in typed if _is_model_number(word)] or typed
    scores = {device.name: _closeness(words, _words(device.name)) for device in catalogue()}
    whole = " ".join(typed)
    ranked = sorted(
        (known for known in scores if scores[known] >= _CLOSE),
        key=lambda known: (-scores[known], -_similarity(whole, " ".join(_words(known))), known),
    )
    return ranked[:limit]


def _closeness(words: list[str], known: list[str]) -> float:
    """Return how well the best pair of words agrees.

    Equal words 3, one that starts the other 2 and the share in common, one within the other 1, else their similarity.
    """
    pairs = [(word, other) for word in words for other in known if len(word) > 1 and len(other) > 1]
    return max((_agreement(*pair) for pair in pairs), default=0.0)


def _agreement(one: str, other: str) -> float:
    short, long = sorted((one, other), key=len)
    if long.startswith(short):
        return 2.0 + len(short) / len(long)
    return 1.0 if short in long else _similarity(one, other)


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
