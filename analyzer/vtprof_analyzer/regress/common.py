"""What both sides recorded in like units: a column of one side alone, or a thousandfold other, compares nothing."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from vtprof_analyzer.regress.requests import Flags, Floats, Requests, Run

_MOSTLY: Final = 0.5
_CONDITIONS: Final = {"encoder_hit": True, "images": True, "cached_tokens": False}
"""Columns that tell like requests from unlike, and whether only requests with media have them."""
_TIMES: Final = (
    "ttft_ms", "preprocess_ms", "queue_ms", "encode_ms", "transfer_ms", "prefill_ms", "unexplained_ms", "tpot_ms",
)  # fmt: skip
_THOUSANDFOLD: Final = (250.0, 4000.0)
"""Ratios of times that units explain better than engines do; and their squares, for microseconds beside seconds."""
_NEARLY: Final = 0.98
_WORK: Final = dict.fromkeys(("preprocess_ms", "encode_ms", "prefill_ms", "tpot_ms"), _MOSTLY) | {
    "queue_ms": _NEARLY
}
"""Times that are zero where nobody recorded them, if so many of the other side's are not; a queue is often empty."""
PARTS: Final = ("preprocess_ms", "queue_ms", "encode_ms", "transfer_ms", "prefill_ms")
"""Times that stand before the first token."""
_HARDLY: Final = 0.05
_FEWEST: Final = 20
_FEWEST_WEIGHTS: Final = 100


@dataclass(frozen=True)
class Common:
    """Both sides with the columns that they can be compared by."""

    base: list[Run]
    new: list[Run]
    gone: dict[str, str]
    """Columns that they cannot be compared by, and why."""
    warnings: list[str]


def in_common(base: Sequence[Run], new: Sequence[Run]) -> Common:
    """Return the sides without what only one of them recorded, or what cannot be in the same units."""
    sides = ([run.requests for run in base], [run.requests for run in new])
    lines: list[str] = []
    gone: dict[str, str] = {}
    for column, with_media in _CONDITIONS.items():
        known = [_known_share(side, column, with_media=with_media) for side in sides]
        if max(known) >= _MOSTLY > min(known):
            gone[column] = _only(known)
    for column in (*_TIMES, "output_tokens"):
        # Load comes from these: of one side alone it would be a load that the other lacks. (A warning tells.)
        known = [_known_share(side, column, with_media=column == "encode_ms") for side in sides]
        if max(known) >= _MOSTLY and min(known) < _HARDLY:
            gone[column] = _only(known)
        took = [_positive_share(side, column) for side in sides]
        if (
            min(known) >= _MOSTLY
            and column in _WORK
            and max(took) >= _WORK[column]
            and min(took) <= _HARDLY / 10
        ):
            gone[column] = f"{('BASE', 'NEW')[took[1] < took[0]]}'s {column} are all zero"
            lines.append(f"{gone[column]}: not compared; were they recorded?")
        ratio = _ratio(sides, column) if column in _TIMES else 1.0
        low, high = _THOUSANDFOLD
        if any(low**power <= max(ratio, 1 / ratio) <= high**power for power in (1, 2)):
            more = f"{ratio:,.0f} times" if ratio > 1 else f"1/{1 / ratio:,.0f} of"
            gone[column] = f"NEW's {column} are about {more} BASE's"
            lines.append(f"{gone[column]}: not compared; are both in milliseconds?")
    for column in ("visual_tokens", "images", "output_tokens"):
        zero = _all_zero(sides, column)
        if zero is not None:
            gone[column] = f"{('BASE', 'NEW')[zero]}'s n_{column} are all zero"
            lines.append(f"{gone[column]}: not compared; were they recorded?")
    for name, side in zip(("BASE", "NEW"), sides, strict=True):
        weight = np.concatenate([q.weight for q in side]) if side else np.zeros(0)
        if len(weight) >= _FEWEST_WEIGHTS and weight.sum() ** 2 < _FEWEST_WEIGHTS / 3 * (weight**2).sum():
            lines.append(f"{name}: a few requests' weights outweigh all others: not compared; check weight")
            gone.update(dict.fromkeys(_TIMES, lines[-1]))
        if _share_of(side, _beyond_ttft) > _MOSTLY:
            lines.append(f"{name}: the phases take longer than the TTFT: not compared; check ttft_ms")
            gone["ttft_ms"] = lines[-1]
        if _share_of(side, _cached_beyond_prompt) > _HARDLY:
            lines.append(f"{name}: more tokens are cached than the prompt has: cached_tokens is not used")
            gone["cached_tokens"] = lines[-1]
        if any(_stands_still(q) for q in side):
            lines.append(
                f"{name}: most requests have one and the same start time: not compared; check start_unix_nano"
            )
            gone.update(dict.fromkeys(_TIMES, lines[-1]))
    parts = [name for name in ("ttft_ms", *PARTS) if name in gone]
    if parts:
        # What is left of TTFT holds what was taken out.
        gone.setdefault("unexplained_ms", gone[parts[0]])
    return Common([_without(run, gone) for run in base], [_without(run, gone) for run in new], gone, lines)


def told_to_be_there(q: Requests) -> dict[str, Flags]:
    """Say by column of work of which requests another column tells that it is more than zero.

    Images and encodes tell of visual tokens, these of images, and a first token or times between tokens of outputs. (Of
    audio there may be encodes alone, and what was cut off before its first token has no output.)
    """
    with np.errstate(invalid="ignore"):
        encoded = (q.encode_ms > 0) & ~(q.audio_tokens > 0)
        return {
            "visual_tokens": ((q.images > 0) & ~(q.audio_tokens > 0)) | encoded,
            "images": (q.visual_tokens > 0) | encoded,
            "output_tokens": (q.tpot_ms > 0) | ((q.tpot_ms == 0) & (q.ttft_ms > 0)),
        }


def _all_zero(sides: Sequence[Sequence[Requests]], column: str) -> int | None:
    """Return which side's column of work is zero where others tell otherwise, if hardly any of the other's is."""
    shares = []
    for side in sides:
        found = [
            getattr(q, column)[told_to_be_there(q)[column] & np.isfinite(getattr(q, column))] for q in side
        ]
        values = np.concatenate(found) if found else np.zeros(0)
        if len(values) < _FEWEST:
            return None
        shares.append(float((values > 0).mean()))
    return shares.index(min(shares)) if max(shares) >= _NEARLY and min(shares) <= _HARDLY / 10 else None


def _share_of(side: Sequence[Requests], tells: Callable[[Requests], Flags]) -> float:
    found = np.concatenate([tells(q) for q in side]) if side else np.zeros(0)
    return float(found.mean()) if len(found) else 0.0


def _beyond_ttft(q: Requests) -> Flags:
    parts = sum(np.nan_to_num(getattr(q, name)) for name in PARTS)
    with np.errstate(invalid="ignore"):
        return np.asarray(parts > 1.05 * q.ttft_ms + 1)


def _cached_beyond_prompt(q: Requests) -> Flags:
    prompt = np.nan_to_num(q.text_tokens) + np.nan_to_num(q.visual_tokens) + np.nan_to_num(q.audio_tokens)
    with np.errstate(invalid="ignore"):
        return np.asarray(q.cached_tokens > prompt)


def _only(known: Sequence[float]) -> str:
    return f"only {('BASE', 'NEW')[known[1] > known[0]]} recorded it"


def _known_share(side: Sequence[Requests], column: str, *, with_media: bool) -> float:
    found = [getattr(q, column)[q.visual_tokens > 0] if with_media else getattr(q, column) for q in side]
    values = np.concatenate(found) if found else np.zeros(0)
    return float(np.isfinite(values).mean()) if len(values) else 0.0


def _positive_share(side: Sequence[Requests], column: str) -> float:
    found = [
        getattr(q, column)[q.visual_tokens > 0] if column == "encode_ms" else getattr(q, column) for q in side
    ]
    values = np.concatenate(found) if found else np.zeros(0)
    known = values[np.isfinite(values)]
    return float((known > 0).mean()) if len(known) else 0.0


def _ratio(sides: Sequence[Sequence[Requests]], column: str) -> float:
    """Return NEW's 99th percentile over BASE's, of times above zero; 1 where one cannot tell.

    (A median would be of cache hits on one side and of encodes on the other.)
    """
    largest = []
    for side in sides:
        values: Floats = np.concatenate([getattr(q, column) for q in side]) if side else np.zeros(0)
        values = values[values > 0]
        if len(values) < _FEWEST:
            return 1.0
        largest.append(float(np.quantile(values, 0.99)))
    return largest[1] / largest[0]


def _stands_still(q: Requests) -> bool:
    if len(q) < _FEWEST:
        return False
    _, counts = np.unique(q.start_ns, return_counts=True)
    return bool(counts.max() > _MOSTLY * len(q))


def without(requests: Requests, columns: Collection[str]) -> Requests:
    """Return requests of which nobody recorded these columns."""
    blank: dict[str, Any] = {name: np.full(len(requests), np.nan) for name in columns}
    return replace(requests, **blank) if blank else requests


def _without(run: Run, columns: Collection[str]) -> Run:
    return replace(run, requests=without(run.requests, columns)) if columns else run
