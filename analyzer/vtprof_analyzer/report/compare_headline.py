"""The verdict of a comparison in a sentence: a lead such as REGRESSION, and what it rests on."""

from typing import Final

from vtprof_analyzer.regress.comparison import Comparison, Decomposition, Effect, Part
from vtprof_analyzer.report.compare_phrases import (
    NAME,
    NOT_KNOWN,
    SENTENCE,
    both_values,
    change,
    ends,
    finite,
    is_time,
    joined,
    magnitude,
    mix_words,
    models,
    needed,
    value,
    what,
)
from vtprof_analyzer.report.format import DASH, duration, safe

CAUSES: Final = 3
"""That the verdict names."""
_SMALL: Final = 0.005
"""Changes of the mean TTFT below it are called none."""
_NEARLY_ALL: Final = 0.1
"""So much of a change may come from elsewhere where all of it is said to come from the workload."""
_MUCH: Final = 0.2
"""A part of a change from here on is named although the workload is alike within its thresholds."""
_MATTER: Final = ("preprocess", "encode", "prefill", "decode")
_BLUNT: Final = 0.05
"""Minimum detectable effects above it are said beside a verdict of no regression."""
_LEADS: Final = {
    "regression": "REGRESSION",
    "improvement": "IMPROVEMENT",
    "no_change": "NO REGRESSION",
    "insufficient_data": "NOT ENOUGH DATA",
}


def headline(comparison: Comparison) -> tuple[str, str]:
    """Return the lead, with a colon at its end, and the sentence."""
    lead = _LEADS[comparison.verdict]
    if comparison.masked:
        lead += f", hidden by {_mask(comparison)}"
    bodies = {
        "regression": _regression,
        "improvement": _improvement,
        "no_change": _no_change,
        "insufficient_data": _insufficient,
    }
    return f"{lead}:", bodies[comparison.verdict](comparison)


def sentence(comparison: Comparison) -> str:
    """Return the whole verdict."""
    return " ".join(headline(comparison))


def effect_sentence(effect: Effect, several_models: bool) -> str:
    """Return an effect in words: ``encode is 8.3 % slower (5.9 to 10.7 %)``."""
    of = f" of {safe(effect.model, NAME)}" if several_models and effect.model else ""
    ratio = finite(effect.effect_ratio)
    if ratio is None:
        return f"{what(effect)}{of} changed by an amount that is {NOT_KNOWN}"
    size, bounds, sides = magnitude(ratio), ends(effect.ci_low, effect.ci_high), both_values(effect)
    shown = "" if sides == f"{DASH} → {DASH}" else sides
    more = ratio >= 0
    if effect.kind == "tail":
        share = f", requests beyond BASE's limit {shown}" if shown else ""
        return f"the tail of {safe(effect.phase, 24)}{of} is {size} {'longer' if more else 'shorter'}{bounds}{share}"
    if effect.phase == "kv":
        return f"KV{of} takes {size} {'more' if more else 'fewer'} bytes per token{bounds}{_after(shown)}"
    if effect.phase == "cache":
        rate = f", hit rate {shown}" if shown else ""
        return f"the {what(effect)}{of} misses {size} {'more' if more else 'less'} often{bounds}{rate}"
    return f"{what(effect)}{of} is {size} {_word(effect, more)}{bounds}"


def _word(effect: Effect, more: bool) -> str:
    if effect.phase in ("queue", "unexplained"):
        return "longer" if more else "shorter"
    return "slower" if more else "faster"


def _after(words: str) -> str:
    return f", {words}" if words else ""


def _effects(comparison: Comparison, effects: tuple[Effect, ...]) -> str:
    several = len(models(comparison)) > 1
    told = joined([effect_sentence(effect, several) for effect in effects], CAUSES, "; ")
    times = any(is_time(effect) for effect in effects[:CAUSES])
    if not times:
        return told
    return f"{told} at like images and load" if len(effects) == 1 else f"at like images and load, {told}"


def _regression(comparison: Comparison) -> str:
    parts = [_effects(comparison, comparison.causes) or f"the cause is {NOT_KNOWN}"]
    if comparison.improvements:
        parts.append(f"better: {joined([what(one) for one in comparison.improvements], CAUSES)}")
    return "; ".join([*parts, ttft(comparison)]) + "."


def _improvement(comparison: Comparison) -> str:
    return f"{_effects(comparison, comparison.improvements) or f'where is {NOT_KNOWN}'}; {ttft(comparison)}."


def _no_change(comparison: Comparison) -> str:
    parts = [ttft(comparison)]
    if not (comparison.workload_shift or comparison.load_increase):
        parts.append("no phase is slower at like images and load")
    unjudged = {what(effect) for effect in comparison.effects if effect.outcome == "insufficient_data"}
    if unjudged:
        parts.append(f"not judged: {joined(sorted(unjudged), CAUSES)}")
    if blunt := [one for one in comparison.effects if one.outcome == "no_change" and _is_blunt(one)]:
        shown = [f"{what(one)} {magnitude(one.mde or 0.0)}" for one in blunt]
        parts.append(f"changes smaller than these would hardly have shown: {joined(shown, CAUSES)}")
    return "; ".join(parts) + "."


def _is_blunt(effect: Effect) -> bool:
    """Tell whether a change of a phase of TTFT or of decode that matters would probably have been missed."""
    mde = finite(effect.mde)
    return effect.phase in _MATTER and mde is not None and mde > _BLUNT


def _insufficient(comparison: Comparison) -> str:
    reasons: dict[str, list[str]] = {}
    for effect in comparison.effects:
        if effect.outcome == "insufficient_data" and effect.why_not:
            reasons.setdefault(effect.why_not, []).append(what(effect))
    told = [
        f"{joined(list(dict.fromkeys(names)), CAUSES)}: {safe(reason, SENTENCE).rstrip('.')}"
        for reason, names in reasons.items()
    ]
    return (
        "; ".join([joined(told, CAUSES, "; ") or f"what is missing is {NOT_KNOWN}", needed(comparison)]) + "."
    )


def ttft(comparison: Comparison) -> str:
    """Return what became of the mean TTFT, and what of it the workload explains."""
    sides = _ttft_sides(comparison)
    if sides is None:
        return f"mean TTFT {NOT_KNOWN}"
    base, new = sides
    if base <= 0:
        return f"mean TTFT {duration(base)} → {duration(new)}"
    ratio = finite(new / base - 1)
    shown = f"{duration(base)} → {duration(new)}"
    if ratio is None:
        return f"mean TTFT {shown}"
    if abs(ratio) < _SMALL:
        return f"mean TTFT as before ({shown})"
    moved = f"mean TTFT {'rose' if ratio > 0 else 'fell'} {magnitude(ratio)} ({shown})"
    parts = comparison.decomposition
    return moved if parts is None else moved + _from_workload(comparison, parts)


def _ttft_sides(comparison: Comparison) -> tuple[float, float] | None:
    means = [
        (row.base, row.new)
        for row in comparison.metrics
        if (row.metric, row.statistic) == ("ttft_ms", "mean")
    ]
    parts = comparison.decomposition
    pairs = [(parts.base_ms, parts.new_ms)] if parts is not None else means[:1]
    for base, new in pairs:
        known_base, known_new = finite(base), finite(new)
        if known_base is not None and known_new is not None:
            return known_base, known_new
    return None


def _from_workload(comparison: Comparison, parts: Decomposition) -> str:
    total = parts.new_ms - parts.base_ms
    flagged = {"mix": comparison.workload_shift, "load": comparison.load_increase}
    workload = [part for part in parts.parts if part.part in flagged and finite(part.change_ms) is not None]
    told = [
        f"{_workload_words(comparison, part)} ({change(part.change_ms / parts.base_ms)})"
        for part in sorted(workload, key=lambda part: -abs(part.change_ms))
        if abs(part.change_ms) >= _SMALL * parts.base_ms
        and (flagged[part.part] or abs(part.change_ms) >= _MUCH * abs(total))
    ]
    if not told:
        return ""
    share = sum(part.change_ms for part in workload) / total
    named = ", ".join(told)
    if abs(share - 1) <= _NEARLY_ALL:
        return f", all of it {named}"
    if share < 0:
        return f", in spite of {named}"
    return f", of that {named}" if share < 1 else f", less than {named} would make it"


def _workload_words(comparison: Comparison, part: Part) -> str:
    more = part.change_ms > 0
    if part.part == "mix":
        return mix_words(comparison.shifts, more)
    return "more load" if more else "less load"


def _mask(comparison: Comparison) -> str:
    """Return what made TTFT fall although a phase is slower."""
    parts = comparison.decomposition.parts if comparison.decomposition else ()
    largest = min(parts, key=lambda part: part.change_ms, default=None)
    if largest is None or not largest.change_ms < 0:
        return "the rest of TTFT"
    if largest.part == "mix":
        return mix_words(comparison.shifts, heavier=False)
    return "less load" if largest.part == "load" else f"less {safe(largest.part, 24)}"


def mean_ttft(comparison: Comparison) -> tuple[str, str, str]:
    """Return the mean TTFT of both sides and its change, as they are shown."""
    sides = _ttft_sides(comparison)
    if sides is None:
        return NOT_KNOWN, NOT_KNOWN, NOT_KNOWN
    base, new = sides
    return value(base, "ms"), value(new, "ms"), change(new / base - 1) if base > 0 else DASH
