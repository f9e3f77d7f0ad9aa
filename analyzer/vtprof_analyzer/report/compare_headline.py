"""The verdict of a comparison in a sentence: a lead such as REGRESSION, and what it rests on."""

from typing import Final

from vtprof_analyzer.regress.comparison import Comparison, Effect, Part
from vtprof_analyzer.report.compare_phrases import (
    NAME,
    NOT_KNOWN,
    SENTENCE,
    both_values,
    change,
    change_in,
    ends,
    finite,
    is_time,
    is_unjudged,
    joined,
    magnitude,
    mix_words,
    model_name,
    models,
    named,
    needed,
    step_of,
    value,
    what,
)
from vtprof_analyzer.report.compare_ttft import adding_up
from vtprof_analyzer.report.format import DASH, duration, safe

CAUSES: Final = 3
"""That the verdict names."""
_NAMED_PARTS: Final = 4
_WORTH_NAMING: Final = 0.05
"""Of all that changed TTFT, up and down together."""
_LARGEST: Final = 1e4
"""Larger ratios are shared out in no digits."""
_SMALL: Final = 0.005
"""Changes of the mean TTFT below it are called none."""
_HIDE_TOO: Final = 0.5
"""Of the largest part that hides a slower phase, from which on the next one is named too."""
REASONS: Final = ("no served model is on both sides", "only BASE records", "only NEW records")
"""Beginnings of the warnings that say why nothing could be judged."""
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
    if comparison.masked or _is_outweighed(comparison):
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
        return f"the tail of {safe(effect.phase, 24)}{of} is {_tail(effect, more) or f'{size} {_length(more)}{bounds}'}"
    if effect.phase == "kv":
        return f"KV{of} takes {size} {'more' if more else 'fewer'} bytes per token{bounds}{_after(shown)}"
    if effect.phase == "cache":
        rate = f", hit rate {shown}" if shown else ""
        return f"the {what(effect)}{of} misses {size} {'more' if more else 'less'} often{bounds}{rate}"
    return f"{what(effect)}{of} is {size} {_word(effect, more)}{bounds}"


def _tail(effect: Effect, more: bool) -> str:
    """Return how many more requests are in a tail; nothing where that is not known."""
    base, new = finite(effect.base_value), finite(effect.new_value)
    if base is None or new is None:
        return ""
    limit = f"requests beyond the limit that {value(base, 'share')} of BASE passes"
    return f"{_length(more)}, {limit}: {value(base, 'share')} → {value(new, 'share')}"


def _length(more: bool) -> str:
    return "longer" if more else "shorter"


def _word(effect: Effect, more: bool) -> str:
    if effect.phase in ("queue", "unexplained"):
        return _length(more)
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
        parts.append(f"better: {joined(named(comparison.improvements, comparison), CAUSES)}")
    return "; ".join([*parts, ttft(comparison)]) + "."


def _improvement(comparison: Comparison) -> str:
    return f"{_effects(comparison, comparison.improvements) or f'where is {NOT_KNOWN}'}; {ttft(comparison)}."


def _no_change(comparison: Comparison) -> str:
    parts = [ttft(comparison)]
    if not (comparison.workload_shift or comparison.load_increase):
        parts.append("no phase is slower at like images and load")
    if unjudged := named(filter(is_unjudged, comparison.effects), comparison):
        parts.append(f"not judged: {joined(unjudged, CAUSES)}")
    if blunt := [one for one in comparison.effects if one.outcome == "no_change" and _is_blunt(one)]:
        several = len(models(comparison)) > 1
        shown = [
            f"{what(one)}{f' of {model_name(one.model)}' if several else ''} {magnitude(one.mde or 0.0)}"
            for one in sorted(blunt, key=lambda one: -(one.mde or 0.0))
        ]
        parts.append(f"changes smaller than these would hardly have shown: {joined(shown, CAUSES)}")
    return "; ".join(parts) + "."


def _is_blunt(effect: Effect) -> bool:
    """Tell whether a change of a phase of TTFT or of decode that matters would probably have been missed."""
    mde = finite(effect.mde)
    return effect.phase in _MATTER and mde is not None and mde > _BLUNT and not is_unjudged(effect)


def _insufficient(comparison: Comparison) -> str:
    first = [safe(line, SENTENCE) for line in comparison.warnings if line.startswith(REASONS)]
    sides = [set(comparison.base.models), set(comparison.new.models)]
    if all(sides) and not sides[0] & sides[1]:
        if len(sides[0]) == len(sides[1]) == 1:
            first.append("where another model is the change under test, give --expect-change")
        return "; ".join(first or ["no served model is on both sides"]) + "."
    reasons: dict[str, list[Effect]] = {}
    for effect in comparison.effects:
        if effect.outcome == "insufficient_data" and effect.why_not:
            reasons.setdefault(effect.why_not, []).append(effect)
    told = [
        f"{joined(named(of, comparison), CAUSES)}: {safe(reason, SENTENCE).rstrip('.')}"
        for reason, of in reasons.items()
    ]
    missing = joined([*first, *told], CAUSES, "; ") or f"what is missing is {NOT_KNOWN}"
    return f"{missing}." if first else f"{missing}; {needed(comparison)}."


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
    named_parts = _parts(comparison, ratio)
    return f"{moved}: {', '.join(named_parts)}" if named_parts else moved


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


def _parts(comparison: Comparison, ratio: float) -> list[str]:
    """Return the parts of TTFT's change in percent of BASE's: the largest and those of the causes, largest first, then the
    rest; in the digits that are shown they add up to the change."""
    parts = _known_parts(comparison)
    told = comparison.decomposition
    if told is None or not parts or abs(ratio) > _LARGEST:
        return []
    causes = {effect.phase for effect in comparison.causes}
    whole = sum(abs(part.change_ms) for part in parts)
    parts = sorted(parts, key=lambda part: -abs(part.change_ms))
    shown = [
        part for part in parts if part.part != "residual" and abs(part.change_ms) >= _WORTH_NAMING * whole
    ]
    shown = shown[:_NAMED_PARTS] + [
        part for part in parts if part.part in causes and part not in shown[:_NAMED_PARTS]
    ]
    step = step_of(ratio)
    total = round(ratio / step)
    exact = [part.change_ms / told.base_ms / step for part in shown]
    if len(shown) < len(parts):
        units = [round(number) for number in exact]
        units.append(total - sum(units))
    else:
        units = adding_up(exact, total)
    words = [*(_part_words(comparison, part) for part in shown), "the rest"]
    return [f"{name} {change_in(unit, step)}" for name, unit in zip(words, units, strict=False) if unit]


def _known_parts(comparison: Comparison) -> list[Part]:
    """Return the parts of TTFT's change; none where one is not known or they are of no TTFT."""
    told = comparison.decomposition
    if told is None or not told.base_ms > 0:
        return []
    known = all(abs(part.change_ms) <= _LARGEST * told.base_ms for part in told.parts)
    return list(told.parts) if known else []


def _part_words(comparison: Comparison, part: Part) -> str:
    more = part.change_ms > 0
    if part.part == "mix":
        return mix_words(comparison.shifts, more)
    if part.part == "load":
        return "more load" if more else "less load"
    return "encoder cache" if part.part == "cache" else safe(part.part, 24)


def _is_outweighed(comparison: Comparison) -> bool:
    """Tell whether a phase of TTFT is slower although TTFT fell."""
    sides = _ttft_sides(comparison)
    phases = {part.part for part in _known_parts(comparison) if part.change_ms > 0}
    return (
        sides is not None
        and sides[1] < sides[0] * (1 - max(comparison.min_effect, _SMALL))
        and any(effect.phase in phases for effect in comparison.causes)
    )


def _mask(comparison: Comparison) -> str:
    """Return what made TTFT fall although a phase is slower."""
    parts = [part for part in _known_parts(comparison) if part.change_ms < 0 and part.part != "residual"]
    parts.sort(key=lambda part: part.change_ms)
    hiding = [part for part in parts[:2] if part.change_ms <= _HIDE_TOO * parts[0].change_ms]
    return " and ".join(_mask_words(comparison, part) for part in hiding) or "the rest of TTFT"


def _mask_words(comparison: Comparison, part: Part) -> str:
    if part.part in ("mix", "load"):
        return _part_words(comparison, part)
    others = {
        "cache": "more encoder cache hits",
        "queue": "a shorter queue",
        "unexplained": "less unexplained time",
    }
    return others.get(part.part, f"a faster {safe(part.part, 24)}")


def mean_ttft(comparison: Comparison) -> tuple[str, str, str]:
    """Return the mean TTFT of both sides and its change, as they are shown."""
    sides = _ttft_sides(comparison)
    if sides is None:
        return NOT_KNOWN, NOT_KNOWN, NOT_KNOWN
    base, new = sides
    return value(base, "ms"), value(new, "ms"), change(new / base - 1) if base > 0 else DASH
