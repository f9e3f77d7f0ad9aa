"""Which columns of a request table are what: their names, units and look-alikes. Pure text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vtprof_analyzer.report.format import safe
from vtprof_schemas.errors import DataError

START: Final = "start_unix_nano"
TTFT: Final = "ttft_ms"
PARTS: Final = ("preprocess_ms", "queue_ms", "encode_ms", "prefill_ms")
"""Times that stand before the first token and that every request table should have."""
DURATIONS: Final = (*PARTS, TTFT, "tpot_ms", "transfer_ms", "unexplained_ms")
COUNTS: Final = (
    "n_text_tokens",
    "n_visual_tokens",
    "n_audio_tokens",
    "n_output_tokens",
    "cached_tokens",
    "n_images",
    "kv_bytes",
)
OTHER_NUMBERS: Final = ("requests_in_flight", "weight", "n_prompt_tokens", "n_videos")
NUMBERS: Final = (*DURATIONS, *COUNTS, *OTHER_NUMBERS)
HIT: Final = "encoder_cache_hit"
KEY: Final = "request_key"
"""Of a table that `vtprof analyze` wrote: there two answers to one request id are two requests."""
TEXTS: Final = ("request_id", "trace_id", KEY, "model", "status", "run")
RECORDED: Final = "kv_recorded"
"""False where KV bytes were derived from the model's config: these say nothing of the engine."""
EXPECTED: Final = (
    "request_id", START, "model", "n_text_tokens", "n_visual_tokens", "queue_ms", "preprocess_ms", "encode_ms",
    "prefill_ms", TTFT, "tpot_ms", "n_output_tokens", "kv_bytes",
)  # fmt: skip
"""What a whole request table has; all else is optional."""
_KNOWN: Final = frozenset({*NUMBERS, *TEXTS, START, HIT, RECORDED})
_ANALYZER_OWN: Final = frozenset(
    {
        "span_id", "dialect", "service_instance_id", "end_unix_nano", "e2e_ms", "visual_stratum", "kv_visual_bytes",
        "kv_bytes_per_token", "ttft_without_visual_ms", "tpot_without_visual_ms", "request_number",
    }
)  # fmt: skip
"""Columns of the analyzer's table `requests` that a comparison does not use."""
_TO_MS: Final = {
    # Nothing to do but a new name: ''.
    "s": "multiply by 1000", "sec": "multiply by 1000", "secs": "multiply by 1000", "seconds": "multiply by 1000",
    "us": "divide by 1000", "usec": "divide by 1000", "micros": "divide by 1000", "microseconds": "divide by 1000",
    "ns": "divide by 1e6", "nano": "divide by 1e6", "nanos": "divide by 1e6", "nanoseconds": "divide by 1e6",
    "milliseconds": "", "millis": "", "msec": "",
}  # fmt: skip
_TO_NS: Final = {
    "s": "multiply by 1e9", "sec": "multiply by 1e9", "secs": "multiply by 1e9", "seconds": "multiply by 1e9",
    "ms": "multiply by 1e6", "msec": "multiply by 1e6", "millis": "multiply by 1e6",
    "us": "multiply by 1000", "micros": "multiply by 1000", "ns": "", "nanos": "",
}  # fmt: skip
_TO_BYTES: Final = {
    "kb": "multiply by 1000", "mb": "multiply by 1e6", "gb": "multiply by 1e9", "kib": "multiply by 1024",
    "mib": "multiply by 1048576", "gib": "multiply by 1073741824",
}  # fmt: skip
_STARTS: Final = ("start_unix", "start", "start_time", "arrival", "arrival_unix", "timestamp", "time_unix")
_SHOWN: Final = 6
_PUNCTUATION: Final = re.compile(r"[\s\-./]+")


@dataclass(frozen=True)
class Layout:
    """Where a table has what."""

    places: Mapping[str, str]
    """{column as we name it: as the table does}."""
    notes: tuple[str, ...]
    """What the table lacks, and what it has that nobody reads."""


def plain_name(name: str) -> str:
    """Return a header's name as it is compared: without case, blanks and a byte order mark."""
    return _PUNCTUATION.sub("_", name.strip("\ufeff \t\r\n").lower())


def known_names(names: Iterable[str]) -> int:
    """Return how many names of a header are those of a request table's columns, be it in another unit."""
    return sum(plain_name(name) in _KNOWN or _other_unit(name) is not None for name in names)


def is_request_table(names: Iterable[str]) -> bool:
    """Say whether a header with these names is that of a request table; one of spans has other names."""
    found = {plain_name(name) for name in names}
    if {"trace_id", "span_id", "start_ns"} <= found:
        return False
    times = {START, *DURATIONS}
    return known_names(found) >= 3 or any(
        name in times or (_other_unit(name) or ("", ""))[0] in DURATIONS for name in found
    )


def layout(shown: str, names: Iterable[str]) -> Layout:
    """Return the places of the columns of table ``shown``.

    Raises DataError, in one line, for a table that lacks what nothing can do without, or has it in another unit.
    """
    given = list(names)
    places: dict[str, str] = {}
    twice = set()
    for name in given:
        if (plain := plain_name(name)) in _KNOWN:
            twice |= {plain} if plain in places else set()
            places.setdefault(plain, name)
    if twice:
        raise DataError(f"{shown}: column {min(twice)} is there twice; leave one of them out")
    for name in given:
        _refuse_other_unit(shown, name, places)
    if START not in places or not any(column in places for column in (TTFT, *PARTS)):
        raise DataError(_lacking(shown, places))
    return Layout(places, tuple(_notes(given, places)))


def _refuse_other_unit(shown: str, name: str, places: Mapping[str, str]) -> None:
    wanted, convert = _other_unit(name) or ("", "")
    if wanted and wanted not in places:
        told = f"{convert} and name it {wanted}" if convert else f"name it {wanted}"
        raise DataError(f"{shown}: column {safe(name)} where {wanted} is wanted; {told}")


def _other_unit(name: str) -> tuple[str, str] | None:
    """Return the column that a name means in another unit or spelling, and how to convert its values."""
    stem, _, unit = plain_name(name).rpartition("_")
    for wanted, meant, conversions in (
        (f"{stem}_ms", f"{stem}_ms" in DURATIONS, _TO_MS),
        (START, stem in _STARTS, _TO_NS),
        ("kv_bytes", stem == "kv", _TO_BYTES),
    ):
        if meant and unit in conversions:
            return wanted, conversions[unit]
    return None


def _lacking(shown: str, places: Mapping[str, str]) -> str:
    missing = [column for column in EXPECTED if column not in places]
    needed = "start_unix_nano and at least ttft_ms or one of " + ", ".join(PARTS)
    return f"{shown}: not in the table: {', '.join(missing)}; a request table needs {needed}"


def _notes(given: list[str], places: Mapping[str, str]) -> Iterable[str]:
    missing = [column for column in EXPECTED if column not in places]
    if "n_text_tokens" in missing and "n_prompt_tokens" in places and "n_visual_tokens" in places:
        missing.remove("n_text_tokens")
    if "request_id" in missing and ("trace_id" in places or KEY in places):
        missing.remove("request_id")
    if missing:
        yield f"not in the table: {', '.join(missing)}{_consequence(missing)}"
    unknown = [name for name in given if plain_name(name) not in _KNOWN | _ANALYZER_OWN]
    if unknown:
        named = ", ".join(safe(name, 40) or '""' for name in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        yield f"columns that are not read: {named}{more}"


_COMPARED: Final = {
    "queue_ms": "queue", "preprocess_ms": "preprocess", "encode_ms": "encode", "prefill_ms": "prefill",
    TTFT: "TTFT", "tpot_ms": "decode", "kv_bytes": "KV",
}  # fmt: skip
"""What is not compared without a column."""


def _consequence(missing: list[str]) -> str:
    lost = [_COMPARED[column] for column in missing if column in _COMPARED]
    if not lost:
        return ""
    return f"; {', '.join(lost)} {'is' if len(lost) == 1 else 'are'} not compared"
