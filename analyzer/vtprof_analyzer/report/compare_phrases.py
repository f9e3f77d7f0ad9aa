"""Numbers and words of a comparison that every format shares: changes, intervals, phases, sides and what is missing."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from vtprof_analyzer.regress.comparison import Comparison, Effect, Shift, SideSummary
from vtprof_analyzer.report.format import (
    DASH,
    MINUS,
    NOT_RECORDED,
    count,
    counted,
    duration,
    plain,
    safe,
    scaled,
    size,
    time_range,
)

NOT_KNOWN: Final = "not known"
NAME: Final = 60
"""Longest name of a model, run or device that is shown."""
SENTENCE: Final = 300
_FINE: Final = 0.0995
"""Relative changes below it are shown with a decimal."""
_COARSE: Final = 0.01
_MOST_PERCENT: Final = 1_000_000
_RUNS: Final = 3
_REASONS: Final = 8
_LARGEST_MDE: Final = 0.5
_WIDEST: Final = 3.0
"""Times by which the ends of an interval differ."""
NOT_JUDGED: Final = (
    "not judged: an MDE above 50 % or an interval wider than a factor of three rules nothing out"
)
OUTCOMES: Final = {
    "regression": "regression",
    "improvement": "improvement",
    "no_change": "no change",
    "insufficient_data": "not judged",
}
EXPLAINED: Final = "explained"
NOISE_SOURCES: Final = {
    "default": "assumed, for nothing measured it: give several runs a side",
    "replicas": "measured between the runs of a side",
}
_METRICS: Final = {
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "kv_bytes": "KV per request",
    "kv_bytes_per_token": "KV per token",
    "encoder_hit": "encoder cache hits",
    "arrivals_per_s": "arrivals",
}


def finite(value: float | None) -> float | None:
    """Return the value if it is a number, else None."""
    return value if value is not None and math.isfinite(value) else None


def number_of(value: float) -> str:
    """Show how many; from a million on in three digits."""
    return scaled(value, "")


def change(ratio: float | None) -> str:
    """Show a relative change with its sign: ``+8.3 %``, ``−31 %``."""
    if finite(ratio) is None or ratio is None:
        return DASH
    return f"{_sign(ratio, 1)}{magnitude(ratio)}"


def magnitude(ratio: float) -> str:
    """Show how large a relative change is, without its sign."""
    return _digits(abs(ratio), 1 if abs(ratio) < _FINE else 0)


def step_of(ratio: float) -> float:
    """Return the last digit in which a change is shown, as a ratio."""
    return 0.001 if abs(ratio) < _FINE else 0.01


def change_in(steps: int, step: float) -> str:
    """Show so many steps as a change: ``+8.0 %``."""
    decimals = 1 if step < _COARSE else 0
    return f"{_sign(steps * step, decimals)}{_digits(abs(steps) * step, decimals)}"


def small(ratio: float) -> str:
    """Show a ratio that is usually below a hundredth: ``0.75 %``."""
    return f"{plain(abs(ratio) * 100, 2)} %" if abs(ratio) < _FINE else magnitude(ratio)


def interval(low: float | None, high: float | None, signed: bool = True) -> str:
    """Show an interval of relative changes: ``+5.9 to +10.7 %``; without signs where both ends have the same."""
    if finite(low) is None or finite(high) is None or low is None or high is None:
        return DASH
    decimals = 1 if min(abs(low), abs(high)) < _FINE and max(abs(low), abs(high)) < 10 * _FINE else 0
    if not signed and low * high > 0:
        ends = sorted((low, high), key=abs)
        first, last = (_digits(abs(end), decimals) for end in ends)
    else:
        first, last = (f"{_sign(end, decimals)}{_digits(abs(end), decimals)}" for end in (low, high))
    return f"{first.removesuffix(' %')} to {last}"


def _digits(ratio: float, decimals: int) -> str:
    value = ratio * 100
    return f"{value:,.{decimals}f} %" if value < _MOST_PERCENT else f"{value:.0e} %"


def _sign(ratio: float, decimals: int) -> str:
    if round(abs(ratio) * 100, decimals) == 0:
        return ""
    return MINUS if ratio < 0 else "+"


def ends(low: float | None, high: float | None) -> str:
    """Show an interval in brackets after its number, or say that there is none; nothing where it is no wider than that."""
    shown = interval(low, high, signed=False)
    if shown == DASH:
        return " (interval not known)"
    first, _, last = shown.removesuffix(" %").partition(" to ")
    return f" ({shown})" if first != last else ""


def from_to(base: float | None, new: float | None, unit: str) -> str:
    """Show a number of both sides: ``612 ms → 640 ms``."""
    return f"{value(base, unit)} → {value(new, unit)}"


def value(number: float | None, unit: str) -> str:
    """Show a number of a unit: ms, B, share, or any word."""
    known = finite(number)
    if known is None:
        return DASH
    if unit == "ms" or unit.startswith("ms "):
        return duration(known)
    if unit == "B":
        return size(known)
    if unit == "share":
        return magnitude(known)
    if unit == "requests/s":
        unit = "/s"
    return f"{plain(known)} {safe(unit, 24)}".rstrip()


def unit_of(metric: str, statistic: str = "") -> str:
    """Return the unit of a metric, which its name ends in."""
    if metric.endswith("_ms"):
        return "ms"
    if "_bytes" in metric:
        return "B"
    if metric.endswith("_per_s"):
        return "/s"
    return "share" if statistic == "rate" or metric.endswith(("_hit", "_share", "_ratio", "_rate")) else ""


def metric_name(metric: str) -> str:
    """Return a metric's name for people."""
    known = _METRICS.get(metric)
    return known or safe(metric.removesuffix("_ms").replace("_", " "), 32)


def outcome(effect: Effect) -> str:
    """Return the outcome in words: no change is only told where a large one would have shown."""
    if is_unjudged(effect):
        return OUTCOMES["insufficient_data"]
    if effect.outcome == "no_change" and effect.why_not:
        return EXPLAINED
    return OUTCOMES[effect.outcome]


def is_unjudged(effect: Effect) -> bool:
    """Tell whether there was too little to judge, or so little that hardly anything is ruled out."""
    if effect.outcome != "no_change":
        return effect.outcome == "insufficient_data"
    mde, low, high = finite(effect.mde), finite(effect.ci_low), finite(effect.ci_high)
    if low is not None and high is not None:
        if low > 0 or high < 0:
            return False
        if low <= -1 or (1 + high) > _WIDEST * (1 + low):
            return True
    return mde is not None and mde > _LARGEST_MDE


def named(effects: Iterable[Effect], comparison: Comparison) -> list[str]:
    """Return what effects are of, each once; with the model where it is not all models'."""
    whose: dict[str, set[str]] = {}
    for effect in effects:
        tailed = effect.kind == "tail"
        whose.setdefault(f"tail of {phase_name(effect.phase)}" if tailed else what(effect), set()).add(
            effect.model
        )
    everyone = models(comparison)
    return [
        words
        if of >= set(everyone)
        else f"{words} of {joined([model_name(one) for one in everyone if one in of], 2)}"
        for words, of in whose.items()
    ]


def is_time(effect: Effect) -> bool:
    """Tell whether an effect is one of a phase's time."""
    return effect.phase not in ("kv", "cache")


def what(effect: Effect) -> str:
    """Return what an effect is one of: ``encode``, ``encode, tail``, ``encoder cache``, ``KV per token``."""
    cached = effect.phase == "cache" and effect.what
    name = safe(effect.what, 24) if cached else phase_name(effect.phase)
    return f"{name}, tail" if effect.kind == "tail" else name


def phase_name(phase: str) -> str:
    """Return a phase's name for people."""
    return "KV per token" if phase == "kv" else safe(phase, 24)


def both_values(effect: Effect) -> str:
    """Return the figures of both sides behind an effect."""
    return from_to(effect.base_value, effect.new_value, value_unit(effect))


def value_unit(effect: Effect) -> str:
    """Return the unit of an effect's figures of the sides."""
    if effect.kind == "tail" or effect.phase == "cache":
        return "share"
    return "B" if effect.phase == "kv" else "ms"


def models(comparison: Comparison) -> list[str]:
    """Return the models that effects are told of, in order."""
    return list(dict.fromkeys(effect.model for effect in comparison.effects))


def model_name(model: str) -> str:
    """Return a model's name, or that none was recorded."""
    return safe(model, NAME) if model else f"model {NOT_RECORDED}"


def level(comparison: Comparison) -> str:
    """Return the level of the intervals: ``99 %``."""
    return f"{plain(100 * (1 - comparison.alpha), 4)} %"


def joined(words: Sequence[str], most: int, sep: str = ", ") -> str:
    """Join the first words, and say how many more there are."""
    more = len(words) - most
    return sep.join(words[:most]) + (f"{sep}{count(more)} more" if more > 0 else "")


def runs(side: SideSummary) -> str:
    """Return the names of a side's runs."""
    return joined([safe(run, NAME) for run in side.runs], _RUNS) or "no run"


def volume(side: SideSummary) -> str:
    """Return how much a side holds and when it was: ``3,012 requests · 2 runs · 2026-11-21 14:02–14:32 UTC``."""
    number = counted(len(side.runs), "run")
    return f"{counted(side.requests, 'request')} · {number} · {time_range(side.begin_unix_nano, side.end_unix_nano)}"


def deployment(side: SideSummary) -> str:
    """Return what served on a side: models, engines, devices, settings; the unknown is named as such."""
    parts = (("model", side.models), ("engine", side.engines), ("device", side.devices))
    told = [_named(kind, names) for kind, names in parts]
    if side.settings:
        told.append(_named("settings", side.settings))
    return " · ".join(told)


def _named(kind: str, names: Iterable[str]) -> str:
    shown = [safe(name, NAME) for name in names if name]
    return joined(shown, _RUNS, " + ") if shown else f"{kind} {NOT_RECORDED}"


def skipped(side: SideSummary) -> str:
    """Return what of a side was left out, by reason."""
    return f"left out: {skipped_reasons(side)}" if side.skipped else "nothing left out"


def skipped_reasons(side: SideSummary) -> str:
    """Return the reasons with their numbers, the most frequent first."""
    reasons = sorted(side.skipped.items(), key=lambda item: (-item[1], item[0]))
    return joined([f"{count(number)} {safe(reason, 80)}" for reason, number in reasons], _REASONS)


def noise(comparison: Comparison) -> str:
    """Return the run-to-run noise that was reckoned with, and where it is from."""
    ratio = finite(comparison.run_noise_ratio)
    shown = NOT_KNOWN if ratio is None else f"{small(ratio)} (standard deviation of the largest phase)"
    return f"run-to-run noise {shown}, {NOISE_SOURCES[comparison.run_noise_source]}"


def needed(comparison: Comparison) -> str:
    """Return what it takes to find an effect of 5 %."""
    asked = "an effect of 5 % in encode, prefill and decode"
    if comparison.requests_needed is not None:
        return f"{asked} takes about {counted(comparison.requests_needed, 'request')} a side, in as many runs as now"
    if comparison.runs_needed is not None:
        runs_needed = counted(comparison.runs_needed, "run")
        return f"{asked} takes about {runs_needed} a side; more requests in as many runs do not reach it"
    return f"how many requests or runs {asked} takes is {NOT_KNOWN}"


def shift_value(shift: Shift, number: float) -> str:
    """Show a figure of a shift; tokens and rates have their unit in the words."""
    return value(number, "" if shift.unit == "tokens" else shift.unit)


def shift_change(shift: Shift) -> str:
    """Return by how much a shift moved: in points for shares, else relative."""
    if finite(shift.base) is None or finite(shift.new) is None:
        return DASH
    if shift.unit == "share":
        points = finite((shift.new - shift.base) * 100)
        return DASH if points is None else f"{MINUS if points < 0 else '+'}{plain(abs(points), 2)} points"
    return change(shift.new / shift.base - 1) if shift.base else DASH


def mix_words(shifts: Sequence[Shift], heavier: bool) -> str:
    """Return what a heavier or lighter mix of requests is, from the shifts that went that way."""
    said = [
        more if heavier else less
        for key, more, less in _MIXES
        if any(
            shift.kind == "mix" and key in shift.what and (shift.new > shift.base) == heavier
            for shift in shifts
        )
    ]
    return " and ".join(said[:_CAUSES_OF_MIX]) or ("heavier requests" if heavier else "lighter requests")


_CAUSES_OF_MIX: Final = 2
_MIXES: Final = (
    ("visual tokens", "bigger images", "smaller images"),
    ("images per", "more images", "fewer images"),
    ("with images", "more requests with images", "fewer requests with images"),
    ("text tokens", "longer text", "shorter text"),
    ("audio tokens", "longer audio", "shorter audio"),
    ("share of model", "another mix of models", "another mix of models"),
)
"""What a shift is about, by a part of its words: what it is called when it grew, and when it fell."""
