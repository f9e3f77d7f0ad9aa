"""Columns as they were read become `Requests`: in order of start, without what cannot be; what is left out is counted."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vtprof_analyzer.regress.requests import Flags, Floats, Integers, Requests
from vtprof_analyzer.report.format import counted, percent, safe
from vtprof_schemas.units import NS_PER_S

LONGEST_MS: Final = 1e11
"""Three years: a longer time is no measurement."""
LARGEST_COUNT: Final = 1e18
_EARLIEST_NS: Final = 10**17
"""1973: what is less was not told in nanoseconds."""
_ROUNDING_RATIO: Final = 0.01
_ROUNDING_MS: Final = 1.0
"""By so much of TTFT, and so many milliseconds more, its parts may exceed it: tools round and clocks differ."""
_DAY_NS: Final = 86_400 * NS_PER_S
_YEAR_DAYS: Final = 366
_STATUSES: Final = 8
"""Statuses that are counted by name."""

_PARTS: Final = ("preprocess_ms", "queue_ms", "encode_ms", "transfer_ms", "prefill_ms")
_DURATIONS: Final = (*_PARTS, "unexplained_ms", "ttft_ms", "tpot_ms")
_COUNTS: Final = {
    "text_tokens": "n_text_tokens", "visual_tokens": "n_visual_tokens", "audio_tokens": "n_audio_tokens",
    "output_tokens": "n_output_tokens", "cached_tokens": "cached_tokens", "images": "n_images", "kv_bytes": "kv_bytes",
}  # fmt: skip
"""Field of `Requests`: name that users know."""


@dataclass(frozen=True)
class Columns:
    """Requests as they were read: one entry each, in the order of the input."""

    floats: dict[str, Floats]
    """By field of `Requests`; NaN where nothing was recorded. A field that the input has not is absent."""
    start_ns: Integers
    """0 where there was none."""
    ids: NDArray[Any]
    keys: NDArray[Any] | None
    """What no two requests share, as text; '' is none; None: all differ."""
    model: Integers
    models: tuple[str, ...]
    status: NDArray[Any] | None = None
    """As recorded, in small letters; '' and "ok" are fine. None: all are."""
    literal_nan: dict[str, Flags] | None = None
    """Where NaN was written in a field's place; elsewhere NaN says that nothing was recorded."""


@dataclass(frozen=True)
class Sifted:
    """What is left, and what is told of the rest."""

    requests: Requests
    skipped: dict[str, int]
    notes: tuple[str, ...]


class _Faults:
    """Why requests are left out: each for the first reason that is found."""

    def __init__(self, count: int) -> None:
        self.left_out: Flags = np.zeros(count, np.bool_)
        self.reasons: Counter[str] = Counter()

    def add(self, reason: str, faulty: Flags) -> None:
        new = int(np.count_nonzero(faulty & ~self.left_out))
        if new:
            self.reasons[reason] += new
            self.left_out |= faulty


def sift(columns: Columns) -> Sifted:
    """Return the requests that can be used."""
    columns = _without_negative_rest(columns)
    columns, in_flight_notes = _without_impossible_in_flight(columns)
    faults = _Faults(len(columns.start_ns))
    _judge_status(columns, faults)
    faults.add("no start time", columns.start_ns == 0)
    faults.add("start time not in nanoseconds of Unix time", columns.start_ns < _EARLIEST_NS)
    for field in (*_DURATIONS, *_COUNTS):
        if field in columns.floats:
            _judge(columns, field, _COUNTS.get(field, field), faults)
    _judge_others(columns, faults)
    times = [columns.floats[field] for field in _DURATIONS if field in columns.floats]
    if times:
        faults.add("no time told", np.logical_and.reduce([np.isnan(values) for values in times]))
    _judge_keys(columns, faults)
    notes = list(_clock_notes(columns.start_ns[~faults.left_out]))
    requests, without = _without_phases(_requests(columns, ~faults.left_out))
    requests, more = _with_unexplained(requests)
    return Sifted(requests, dict(faults.reasons), (*in_flight_notes, *notes, *without, *more))


def _without_negative_rest(columns: Columns) -> Columns:
    """Forget a rest of TTFT below zero: it was computed from the parts, which `_with_unexplained` judges."""
    rest = columns.floats.get("unexplained_ms")
    if rest is None or not (rest < 0).any():
        return columns
    return replace(columns, floats=columns.floats | {"unexplained_ms": np.where(rest < 0, np.nan, rest)})


def _without_impossible_in_flight(columns: Columns) -> tuple[Columns, list[str]]:
    """Forget how many other requests were in flight where that cannot be: the request itself is as good as any."""
    told = columns.floats.get("in_flight")
    if told is None:
        return columns, []
    below, above = told < 0, told > LARGEST_COUNT
    if not (below | above).any():
        return columns, []
    # A share and no number: so the notes of many runs are one.
    notes = [
        f"requests_in_flight is {what} in {percent(float(odd.mean()))} of the requests: only these values are left out"
        for what, odd in (("below 0", below), (f"above {LARGEST_COUNT:g}", above))
        if odd.any()
    ]
    kept = np.where(below | above, np.nan, told)
    return replace(columns, floats=columns.floats | {"in_flight": kept}), notes


def _judge_status(columns: Columns, faults: _Faults) -> None:
    if columns.status is None:
        return
    told = Counter(columns.status.tolist())
    for place, (status, _) in enumerate(told.most_common()):
        if status not in ("", "ok"):
            reason = safe(status, 40) if place < _STATUSES else "other status"
            faults.add(reason, columns.status == status)
            if place >= _STATUSES:
                faults.add(reason, (columns.status != "ok") & (columns.status != ""))
                return


def _judge(columns: Columns, field: str, name: str, faults: _Faults) -> None:
    values = columns.floats[field]
    if columns.literal_nan and field in columns.literal_nan:
        faults.add(f"NaN in {name}", columns.literal_nan[field])
    faults.add(f"infinite {name}", np.isinf(values))
    faults.add(f"negative {name}", values < 0)
    limit = LONGEST_MS if field in _DURATIONS else LARGEST_COUNT
    faults.add(f"impossible {name}", values > limit)


def _judge_others(columns: Columns, faults: _Faults) -> None:
    hit, weight = columns.floats.get("encoder_hit"), columns.floats.get("weight")
    if hit is not None:
        faults.add("encoder_cache_hit outside 0 to 1", (hit < 0) | (hit > 1))
    if weight is not None:
        faults.add("weight not above 0", (weight <= 0) | np.isinf(weight))
        if columns.literal_nan and "weight" in columns.literal_nan:
            faults.add("NaN in weight", columns.literal_nan["weight"])


def _judge_keys(columns: Columns, faults: _Faults) -> None:
    """Leave out the later ones of requests that share an id; the first that can be used stays."""
    if columns.keys is None:
        return
    keys = columns.keys.tolist()
    # A set of a million costs a fifth of a second, the search below seconds: it is seldom needed.
    if len(set(keys)) == len(keys):
        return
    seen: set[str] = set()
    again = np.zeros(len(keys), np.bool_)
    for place, (key, out) in enumerate(zip(keys, faults.left_out.tolist(), strict=True)):
        if out or not key:
            continue
        again[place] = key in seen
        seen.add(key)
    faults.add("duplicate request id", again)


def _clock_notes(start_ns: Integers) -> list[str]:
    """Return what is odd about the start times, in the order of the input."""
    if len(start_ns) < 2:
        return []
    notes = []
    back = int(np.min(np.diff(start_ns)))
    if back < -_DAY_NS:
        notes.append(
            f"start times jump back by {-back / _DAY_NS:.1f} days within the run: are these several runs?"
        )
    days = (int(start_ns.max()) - int(start_ns.min())) / _DAY_NS
    if days > _YEAR_DAYS:
        notes.append(f"start times spread over {days / _YEAR_DAYS:.1f} years: was a clock wrong?")
    return notes


def _requests(columns: Columns, kept: Flags) -> Requests:
    start = columns.start_ns
    order: Integers | Flags | slice
    if kept.all():
        order = slice(None)
    else:
        order, start = kept, start[kept]
    if np.any(start[1:] < start[:-1]):
        sorted_ = np.argsort(start, kind="stable")
        order = sorted_ if isinstance(order, slice) else np.flatnonzero(kept)[sorted_]
    unknown = np.full(int(np.count_nonzero(kept)), np.nan)

    def field(name: str) -> Floats:
        return columns.floats[name][order] if name in columns.floats else unknown

    weight = field("weight")
    visual, audio, hit = field("visual_tokens"), field("audio_tokens"), field("encoder_hit")
    without_media = (visual == 0) & ~(audio > 0) & ~(field("images") > 0)
    return Requests(
        ids=columns.ids[order],
        start_ns=columns.start_ns[order],
        model=columns.model[order],
        models=columns.models,
        text_tokens=field("text_tokens"),
        visual_tokens=visual,
        audio_tokens=audio,
        output_tokens=field("output_tokens"),
        cached_tokens=field("cached_tokens"),
        images=field("images"),
        encoder_hit=np.where(without_media, np.nan, hit),
        in_flight=field("in_flight"),
        preprocess_ms=field("preprocess_ms"),
        queue_ms=field("queue_ms"),
        encode_ms=field("encode_ms"),
        transfer_ms=field("transfer_ms"),
        prefill_ms=field("prefill_ms"),
        unexplained_ms=field("unexplained_ms"),
        ttft_ms=field("ttft_ms"),
        tpot_ms=field("tpot_ms"),
        kv_bytes=field("kv_bytes"),
        weight=np.where(np.isnan(weight), 1.0, weight),
    )


def _without_phases(requests: Requests) -> tuple[Requests, list[str]]:
    """Forget phases that are all zero before a first token: the analyzer writes that where none was recorded."""
    some = np.logical_or.reduce([getattr(requests, part) > 0 for part in _PARTS])
    none = (requests.ttft_ms > 0) & (requests.prefill_ms == 0) & ~some
    count = int(np.count_nonzero(none))
    if not count:
        return requests, []
    cleared: dict[str, Any] = {
        part: np.where(none, np.nan, getattr(requests, part)) for part in (*_PARTS, "unexplained_ms")
    }
    return replace(requests, **cleared), [f"no phases were recorded for {counted(count, 'request')}"]


def _with_unexplained(requests: Requests) -> tuple[Requests, list[str]]:
    """Fill in what is left of TTFT where it was not recorded and all of its parts are known."""
    # A prompt without media has nothing to encode; few engines move anything between workers.
    encode = np.where(
        np.isnan(requests.encode_ms) & (requests.visual_tokens == 0) & ~(requests.audio_tokens > 0),
        0.0,
        requests.encode_ms,
    )
    others = requests.preprocess_ms + requests.queue_ms + encode + requests.prefill_ms
    left = requests.ttft_ms - others - np.nan_to_num(requests.transfer_ms)
    over = left < -(_ROUNDING_RATIO * requests.ttft_ms + _ROUNDING_MS)
    missing = np.isnan(requests.unexplained_ms)
    found = np.where(over, np.nan, np.maximum(left, 0.0))
    filled = np.where(missing, found, requests.unexplained_ms)
    beyond = int(np.count_nonzero(missing & over))
    told = f"{counted(beyond, 'request')} whose parts add up to more than their TTFT: unexplained is not told there"
    return replace(requests, unexplained_ms=filled), [told] if beyond else []
