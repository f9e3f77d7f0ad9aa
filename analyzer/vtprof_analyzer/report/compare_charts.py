"""The pictures of a comparison's page as Vega-Lite documents: TTFT's change, effects with intervals, effects by stratum.

A picture whose data are not known is ``None``. Colours and configuration are those of the report's pictures.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import altair as alt

from vtprof_analyzer.regress.comparison import Comparison, Effect, StratumEffect
from vtprof_analyzer.report import compare_ttft
from vtprof_analyzer.report.charts import COLOURS, OTHER_COLOUR, _data, _document, _field, _in_order
from vtprof_analyzer.report.compare_phrases import (
    both_values,
    change,
    finite,
    interval,
    magnitude,
    model_name,
    models,
    number_of,
    outcome,
    value,
    what,
)
from vtprof_analyzer.report.compare_tables import stratum
from vtprof_analyzer.report.format import DASH, safe
from vtprof_schemas import names

_EFFECTS: Final = 40
_STRATA: Final = 60
_LARGEST: Final = 3.0
"""Effects beyond it, 300 %, are drawn at the edge; the tables have them."""
_SMALLEST: Final = 0.05
"""Half of the narrowest axis of effects."""
_WIDE: Final = 4
"""Times the median end of an interval up to which the axis is stretched for intervals."""
_LABEL: Final = 46
_MODEL: Final = 18
_ROW_PX: Final = 30
_STRATUM_PX: Final = 20
_STRATA_ORDER: Final = {label: place for place, (label, _) in enumerate(names.VISUAL_STRATA)}
_EXTRA: Final = {"mix": "#8A94A0", "load": "#56606C", "cache": "#F0E442"}
"""Parts of TTFT that are no phases."""


def specs(comparison: Comparison) -> dict[str, dict[str, Any] | None]:
    """Return the pictures by name, in the order of the page."""
    return {"ttft": ttft(comparison), "effects": effects(comparison), "strata": strata(comparison)}


def ttft(comparison: Comparison) -> dict[str, Any] | None:
    """Return the waterfall from BASE's mean TTFT to NEW's, one bar for each part of the change."""
    told = compare_ttft.budget(comparison)
    if told is None:
        return None
    rows: list[dict[str, Any]] = [
        {
            "part": row.name, "start": row.start_ms, "end": row.start_ms + row.change_ms, "shown": row.shown_ms,
            "ratio": f"{row.shown_ratio} of BASE" if row.shown_ratio else DASH,
            "edge": max(row.start_ms, row.start_ms + row.change_ms),
        }
        for row in told.rows
    ]  # fmt: skip
    order = ["BASE", *(row.name for row in told.rows), "NEW"]
    places = [told.base_ms, told.new_ms, *(row["end"] for row in rows)]
    low, high = min(places), max(places)
    pad = max((high - low) * 0.12, abs(high) * 0.005, 1e-6)
    # The axis does not begin at zero, so that sides are marks and no bars; only changes have a length. There is room for
    # the figure to the right of the last bar.
    x = alt.X("start:Q", title="mean TTFT, ms").scale(
        domain=[low - pad, high + 3 * pad], zero=False, nice=False
    )
    x = x.axis(tickCount=5, format=",~f")
    y = alt.Y("part:N", title=None, sort=order).axis(grid=False, domain=False, ticks=False)
    colours = [_part_colour(row.part) for row in told.rows]
    domain = [row.name for row in told.rows]
    colour = alt.Color("part:N", legend=None).scale(domain=domain, range=colours)
    bars = alt.Chart(_data(rows))
    tooltip = [_field("part"), _field("shown", "change"), _field("ratio", "share")]
    sides = [
        {"part": "BASE", "start": told.base_ms, "shown": told.base},
        {"part": "NEW", "start": told.new_ms, "shown": f"{told.new} {told.ratio}".strip()},
    ]
    marks = alt.Chart(_data(sides))
    # The larger one's figure stands to its left: on a narrow page there is no room to its right.
    larger = int(told.new_ms > told.base_ms)
    right, left = alt.Chart(_data([sides[1 - larger]])), alt.Chart(_data([sides[larger]]))
    figures = [
        right.mark_text(align="left", dx=8, fontWeight=600),
        left.mark_text(align="right", dx=-8, fontWeight=600),
    ]
    layers: list[Any] = [
        marks.mark_rule(strokeDash=[2, 4]).encode(x="start:Q"),
        bars.mark_bar(height=16, cornerRadius=1).encode(x=x, x2="end:Q", y=y, color=colour, tooltip=tooltip),
        bars.mark_text(align="left", dx=6).encode(x="edge:Q", y=y, text="shown:N", tooltip=tooltip),
        marks.mark_tick(thickness=3, size=20).encode(
            x="start:Q", y=y, tooltip=[_field("shown", "mean TTFT")]
        ),
        *(figure.encode(x="start:Q", y=y, text="shown:N") for figure in figures),
    ]
    return _document(
        alt.layer(*layers).properties(
            width="container",
            height=26 * len(order),
            description="Waterfall of the change of the mean TTFT, by part",
        )
    )


def _part_colour(part: str) -> str:
    return _EXTRA.get(part, COLOURS.get(part, OTHER_COLOUR))


def effects(comparison: Comparison) -> dict[str, Any] | None:
    """Return the effects with their intervals, and between which ends a change would not have been found."""
    several = len(models(comparison)) > 1
    told = [effect for effect in comparison.effects if _drawn(effect)][:_EFFECTS]
    if not told:
        return None
    rows = [_effect_row(effect, several) for effect in told]
    order = list(dict.fromkeys(str(row["name"]) for row in rows))
    x = _effect_axis(_reach(rows))
    y = alt.Y("name:N", title=None, sort=order).axis(grid=True, domain=False, ticks=False, labelLimit=260)
    tooltip = [
        _field("name", "phase"), _field("change"), _field("interval"), _field("mde", "MDE"), _field("outcome"),
        _field("sides", "BASE → NEW"),
    ]  # fmt: skip
    chart, colour = (
        alt.Chart(_data(rows)),
        _colours(_in_order(str(row["phase"]) for row in rows)).legend(None),
    )
    shape = alt.condition("datum.found", alt.value("diamond"), alt.value("circle"))
    grey = alt.value("#8A94A0")
    layers: list[Any] = [
        chart.mark_bar(height=14, opacity=0.16, clip=True).encode(x="least_low:Q", x2="least:Q", y=y, color=grey),
        alt.Chart(_data([{"zero": 0}])).mark_rule().encode(x="zero:Q"),
        chart.mark_rule(strokeWidth=2.5, clip=True).encode(x=x, x2="high:Q", y=y, color=colour, tooltip=tooltip),
        chart.mark_point(filled=True, size=110, strokeWidth=1.5, opacity=1, clip=True).encode(
            x="effect:Q", y=y, color=colour, shape=shape, tooltip=tooltip
        ),
    ]  # fmt: skip
    return _document(
        alt.layer(*layers).properties(
            width="container", height=_ROW_PX * len(order) + 10,
            description="Effects at like images and load with their intervals, by phase",
        )
    )  # fmt: skip


def _drawn(effect: Effect) -> bool:
    return all(finite(number) is not None for number in (effect.effect_ratio, effect.ci_low, effect.ci_high))


def _effect_row(effect: Effect, several: bool) -> dict[str, Any]:
    least = finite(effect.mde) or 0.0
    name = f"{what(effect)} · {_short(effect.model)}" if several else what(effect)
    return {
        "name": safe(name, _LABEL), "phase": safe(effect.phase, 24),
        "effect": _percent(effect.effect_ratio), "low": _percent(effect.ci_low), "high": _percent(effect.ci_high),
        "least": _percent(least), "least_low": -_percent(least), "change": change(effect.effect_ratio),
        "interval": interval(effect.ci_low, effect.ci_high),
        "mde": magnitude(least) if least else DASH, "outcome": outcome(effect), "sides": both_values(effect),
        "found": effect.outcome in ("regression", "improvement"),
    }  # fmt: skip


def _short(model: str) -> str:
    return safe(model_name(model), _MODEL)


def strata(comparison: Comparison) -> dict[str, Any] | None:
    """Return the shift by stratum of visual tokens: each phase's effect with its interval, stratum by stratum."""
    several = len({row.model for row in comparison.strata}) > 1
    told = [
        row
        for row in comparison.strata
        if row.by == "visual_tokens" and all(map(math.isfinite, (row.effect_ratio, row.ci_low, row.ci_high)))
    ][:_STRATA]
    if not told:
        return None
    rows = [_stratum_row(row, several) for row in told]
    order = [str(row["stratum"]) for row in sorted(rows, key=lambda row: int(row["place"]))]
    order = list(dict.fromkeys(order))
    phases = _in_order(str(row["phase"]) for row in rows)
    x = _effect_axis(_reach(rows))
    y = alt.Y("stratum:N", title="visual tokens of the request", sort=order)
    y = y.axis(grid=True, domain=False, ticks=False, labelLimit=220)
    offset = alt.YOffset("phase:N", sort=phases).scale(paddingOuter=0.3)
    colour = _colours(phases)
    tooltip = [
        _field("stratum", "visual tokens"), _field("phase"), _field("change"), _field("interval"),
        _field("sides", "BASE → NEW"), _field("requests"),
    ]  # fmt: skip
    chart = alt.Chart(_data(rows))
    layers: list[Any] = [
        alt.Chart(_data([{"zero": 0}])).mark_rule().encode(x="zero:Q"),
        chart.mark_rule(strokeWidth=2.5, clip=True).encode(
            x=x, x2="high:Q", y=y, yOffset=offset, color=colour, tooltip=tooltip
        ),
        chart.mark_point(filled=True, size=80, shape="circle", strokeWidth=1.2, opacity=1, clip=True).encode(
            x="effect:Q", y=y, yOffset=offset, color=colour, tooltip=tooltip
        ),
    ]
    height = _STRATUM_PX * len(order) * len(phases) + 20
    return _document(
        alt.layer(*layers).properties(
            width="container", height=height, description="Effects by visual tokens of the request and phase"
        )
    )


def _stratum_row(row: StratumEffect, several: bool) -> dict[str, Any]:
    name = f"{stratum(row)} · {_short(row.model)}" if several else stratum(row)
    return {
        "place": _STRATA_ORDER.get(row.stratum, len(_STRATA_ORDER)),
        "stratum": safe(name, _LABEL), "phase": safe(row.phase, 24),
        "effect": _percent(row.effect_ratio), "low": _percent(row.ci_low), "high": _percent(row.ci_high),
        "change": change(row.effect_ratio), "interval": interval(row.ci_low, row.ci_high),
        "sides": f"{value(row.base_ms, 'ms')} → {value(row.new_ms, 'ms')}",
        "found": row.ci_low > 0 or row.ci_high < 0,
        "requests": f"{number_of(row.requests_base)} and {number_of(row.requests_new)}",
    }  # fmt: skip


def _percent(ratio: float | None) -> float:
    """Return a relative change in percent, those too large for the picture at its edge."""
    return 100 * min(max(ratio or 0.0, -_LARGEST), _LARGEST)


def _reach(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the ends of the axis: zero, every point and what was found are inside, wide intervals may go beyond."""
    ends = [float(row[end]) for row in rows for end in ("low", "high")]
    inside = [float(row["effect"]) for row in rows]
    inside += [float(row[end]) for row in rows if row.get("found") for end in ("low", "high")]
    widest = max(_WIDE * median(map(abs, ends)), 100 * _SMALLEST)
    low, high = max(min(*ends, 0.0), -widest), min(max(*ends, 0.0), widest)
    return 1.06 * min(*inside, low, -100 * _SMALLEST), 1.06 * max(*inside, high, 100 * _SMALLEST)


def _effect_axis(reach: tuple[float, float]) -> alt.X:
    x = alt.X("low:Q", title="change, % (to the right: worse)").scale(
        domain=list(reach), nice=False, clamp=True
    )
    return x.axis(
        tickCount=7, labelExpr="datum.value > 0 ? '+' + datum.label : datum.label", labelOverlap=True
    )


def _colours(phases: Sequence[str]) -> alt.Color:
    return alt.Color("phase:N").scale(domain=list(phases), range=[_part_colour(phase) for phase in phases])
