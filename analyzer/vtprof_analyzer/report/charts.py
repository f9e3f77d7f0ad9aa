"""The three pictures of the HTML report as Vega-Lite documents: roofline, TTFT budget, KV held over time.

A chart whose data were not recorded is ``None``, never an empty or a zero picture. Colours of the phases are Okabe and
Ito's, which colour-blind readers can tell apart; all other colours come from ``config``, for light and dark.
"""

import math
from collections.abc import Iterable
from typing import Any

import altair as alt

from vtprof_analyzer.report import phrases
from vtprof_analyzer.report.format import count, duration, plain, safe, scaled, whole_percents
from vtprof_analyzer.report.model import BudgetRow, Report, Roof
from vtprof_schemas import names
from vtprof_schemas.units import BYTES_PER_GIB, BYTES_PER_KIB, BYTES_PER_MIB

MIXED = "mixed"
COLOURS: dict[str, str] = {
    names.PREPROCESS: "#CC79A7",
    names.QUEUE: "#56B4E9",
    names.ENCODE: "#0072B2",
    names.TRANSFER: "#D55E00",
    names.PREFILL: "#E69F00",
    names.DECODE: "#009E73",
    MIXED: "#F0E442",
    names.UNEXPLAINED: "#C9CDD2",
}
"""Phase to colour; a phase that is not named here is drawn as the unexplained is."""
VISUAL_COLOUR = "#0072B2"
OTHER_COLOUR = "#C9CDD2"
_KV_COLOURS = {"visual tokens": VISUAL_COLOUR, "all other tokens": OTHER_COLOUR}
_CLOUD_LIMIT = 4_000
"""Cells of the roofline that are drawn; the analyzer bins far below it."""
_ROOF_LIMIT = 8
"""Roofs that are drawn: more lines hide the steps. The text above the picture names all."""
_LINE, _LIKE = 14, 1.6
"""Height of a label, in pixels, and the ratio of two peaks whose labels would meet: 14 pixels where a decade has some 70."""
_ROOM = 4
"""Times the largest footprint up to which the capacity is drawn as a line."""
_LIMITS = (1e-6, 1e18)
"""No device and no model lies outside: values beyond are drawn at the edge."""


def config(dark: bool) -> dict[str, Any]:
    """Return the Vega-Lite configuration of one colour scheme."""
    ink, soft, grid = ("#e6e8eb", "#a2a9b3", "#2b313a") if dark else ("#1c2127", "#59626e", "#e8eaed")
    paper = "#13171c" if dark else "#ffffff"
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
    return {
        "background": "transparent",
        "font": font,
        "view": {"stroke": None},
        "axis": {
            "labelColor": soft, "titleColor": soft, "gridColor": grid, "domainColor": grid, "tickColor": grid,
            "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 400, "titlePadding": 10, "labelPadding": 6,
        },
        "legend": {
            "labelColor": ink, "titleColor": soft, "labelFontSize": 12, "symbolType": "square", "symbolStrokeWidth": 0,
            "orient": "top", "direction": "horizontal", "title": None, "offset": 12, "symbolOpacity": 1,
        },
        "rule": {"color": soft},
        "line": {"color": ink},
        "text": {"color": ink, "fontSize": 12},
        "point": {"stroke": ink},
        "style": {"halo": {"stroke": paper, "strokeWidth": 5, "strokeJoin": "round", "strokeOpacity": 0.85}},
    }  # fmt: skip


def specs(report: Report) -> dict[str, dict[str, Any] | None]:
    """Return the pictures by name, in the order of the page."""
    return {"budget": budget(report), "roofline": roofline(report), "kv": kv_held(report)}


def budget(report: Report) -> dict[str, Any] | None:
    """Return the stacked bars of TTFT: all requests over the slowest ones."""
    groups = (("all requests", report.ttft_budget.phases), ("p95 and above", report.ttft_budget.tail_phases))
    rows = [row for group, phases in groups for row in _bars(group, phases)]
    if not rows:
        return None
    phases = _in_order(row["phase"] for row in rows)
    chart = (
        alt.Chart(_data(rows))
        .mark_bar(height=34)
        .encode(
            x=alt.X("start:Q", title="share of TTFT, %", scale=alt.Scale(domain=[0, 100], clamp=True)).axis(
                values=[0, 25, 50, 75, 100], format="d"
            ),
            x2="end:Q",
            y=alt.Y("group:N", title=None, sort=[name for name, _ in groups]).axis(
                grid=False, domain=False, ticks=False
            ),
            color=_colour(phases),
            tooltip=[_field("group", "requests"), _field("phase"), _field("share"), _field("median")],
        )
        .properties(width="container", height=112, description="Where TTFT goes, share of each phase")
    )
    return _document(chart)


def _bars(group: str, phases: list[BudgetRow]) -> list[dict[str, Any]]:
    rows = []
    start = 0.0
    for row, whole in zip(phases, whole_percents([row.share for row in phases]), strict=True):
        if row.share is None or whole is None:
            continue
        end = start + row.share * 100
        rows.append({
            "group": group, "phase": safe(row.phase, 24), "start": start, "end": end, "share": f"{count(whole)} %",
            "median": "not recorded" if row.p50_ms is None else duration(row.p50_ms),
        })  # fmt: skip
        start = end
    return rows


def roofline(report: Report) -> dict[str, Any] | None:
    """Return the roofline: ceilings, ridge, a cloud of steps by phase, and one mark for each phase as a whole."""
    cells: list[dict[str, Any]] = [
        {
            "phase": safe(cell.phase, 24), "x": _within(cell.intensity), "y": _within(cell.flops_per_s), "steps": cell.steps,
            "weight": math.sqrt(max(cell.seconds, 0.0)), "intensity": f"{plain(cell.intensity)} FLOP/B",
            "rate": scaled(cell.flops_per_s, "FLOP/s"), "time": duration(cell.seconds * 1_000), "count": count(cell.steps),
        }
        for cell in report.roofline[:_CLOUD_LIMIT]
        if cell.intensity > 0 and cell.flops_per_s > 0
    ]  # fmt: skip
    marks: list[dict[str, Any]] = [
        {
            "phase": safe(row.phase, 24), "x": _within(row.intensity), "y": _within(row.flops_per_s),
            "verdict": phrases.verdict(row.bound), "intensity": f"{plain(row.intensity)} FLOP/B",
            "rate": scaled(row.flops_per_s, "FLOP/s"),
        }
        for row in report.phases
        if row.intensity is not None and row.flops_per_s is not None and row.intensity > 0 and row.flops_per_s > 0
    ]  # fmt: skip
    if not cells and not marks:
        return None
    roofs = report.deployment.roofs[:_ROOF_LIMIT]
    points = [*cells, *marks]
    x_low, x_high = _decades([point["x"] for point in points] + [_within(roof.ridge) for roof in roofs])
    y_low, y_high = _decades(
        [point["y"] for point in points] + [_within(roof.peak_flops_per_s) for roof in roofs]
    )
    x = alt.X("x:Q", title="arithmetic intensity, FLOP/B").scale(
        type="log", domain=[x_low, x_high], clamp=True
    )
    x = x.axis(values=_powers(x_low, x_high), format="~g")
    y = alt.Y("y:Q", title="achieved, FLOP/s").scale(type="log", domain=[y_low, y_high], clamp=True)
    y = y.axis(values=_powers(y_low, y_high), format="~s" if y_low >= 1 else "~g")
    phases = _in_order([point["phase"] for point in points])
    colour = _colour(phases)
    layers: list[Any] = []
    if cells:
        layers.append(
            alt.Chart(_data(cells)).mark_circle(clip=True).encode(
                x=x, y=y, color=colour,
                size=alt.Size("weight:Q", legend=None).scale(range=[14, 130]),
                opacity=alt.Opacity("weight:Q", legend=None).scale(range=[0.6, 0.95]),
                tooltip=[*map(_field, ("phase", "intensity", "rate", "time")), _field("count", "steps")],
            )
        )  # fmt: skip
    for roof in roofs:
        layers += _roof_layers(roof, x, y, (x_low, x_high, y_low))
    layers += _roof_names(roofs, x, y, x_high)
    if marks:
        marked = alt.Chart(_data(marks))
        tooltip = [_field("phase"), _field("verdict"), _field("intensity"), _field("rate")]
        # Neighbours on the axis are named below and above in turn, so that their names do not meet on a narrow page.
        neighbours = sorted(marks, key=lambda mark: float(mark["x"]))
        for named, offset in ((neighbours[::2], 26), (neighbours[1::2], -22)):
            if not named:
                continue
            # Dots lie behind the names too: the halo keeps them legible.
            for style in ("halo", alt.Undefined):
                label = alt.Chart(_data(named)).mark_text(dy=offset, fontWeight=600, style=style)
                layers.append(label.encode(x=x, y=y, text="phase:N", tooltip=tooltip))
        # Over the names: where the page is narrow a name may meet a neighbour's mark, and must not hide it.
        layers.append(
            marked.mark_point(shape="diamond", size=150, filled=True, strokeWidth=1.5, opacity=1).encode(
                x=x, y=y, color=colour, tooltip=tooltip
            )
        )
    chart = alt.layer(*layers).properties(
        width="container",
        height=360,
        description="Roofline: achieved FLOP/s over arithmetic intensity, by phase",
    )
    return _document(chart)


def _roof_layers(roof: Roof, x: alt.X, y: alt.Y, frame: tuple[float, float, float]) -> list[Any]:
    x_low, x_high, y_low = frame
    peak, bandwidth = _within(roof.peak_flops_per_s), max(roof.bandwidth_bytes_per_s, 1e-6)
    ridge = min(max(peak / bandwidth, x_low), x_high)
    # The slanted part starts where it meets the lower or the left edge: clamping would bend it.
    start = min(max(x_low, y_low / bandwidth), ridge)
    label = phrases.roof_line(roof)
    line = [
        {"x": start, "y": start * bandwidth, "roof": label},
        {"x": ridge, "y": min(peak, ridge * bandwidth), "roof": label},
        {"x": x_high, "y": min(peak, x_high * bandwidth), "roof": label},
    ]
    dash = [1, 0] if roof.kind == "attainable" else [5, 4]
    tooltip = [_field("roof")]
    layers: list[Any] = [
        alt.Chart(_data(line))
        .mark_line(strokeWidth=1.6, strokeDash=dash, clip=True)
        .encode(x=x, y=y, tooltip=tooltip)
    ]
    if roof.kind == "attainable":
        layers.append(
            alt.Chart(_data([{"x": ridge, "roof": f"ridge {plain(roof.ridge)} FLOP/B"}]))
            .mark_rule(strokeDash=[2, 4])
            .encode(x=x, tooltip=tooltip)
        )
    return layers


def _roof_names(roofs: list[Roof], x: alt.X, y: alt.Y, x_high: float) -> list[Any]:
    """Return the devices' names below the right ends of their first roofs, those of like height one below the other."""
    firsts = {(roof.device, roof.dtype): roof for roof in reversed(roofs) if roof.device}
    named = dict(zip(firsts, _short_names(list(firsts)), strict=True))
    layers: list[Any] = []
    above, offset = math.inf, 0
    for key, roof in sorted(firsts.items(), key=lambda item: -item[1].peak_flops_per_s):
        offset = offset + _LINE if above < _LIKE * roof.peak_flops_per_s else _LINE
        above = roof.peak_flops_per_s
        row = {"x": x_high, "y": _within(above), "name": named[key], "roof": phrases.roof_line(roof)}
        for style in ("halo", alt.Undefined):
            text = alt.Chart(_data([row])).mark_text(align="right", dx=-4, dy=offset, style=style)
            layers.append(text.encode(x=x, y=y, text="name:N", tooltip=[_field("roof")]))
    return layers


def _short_names(devices: list[tuple[str | None, str]]) -> list[str]:
    """Return labels of devices and data types: without vendor and what follows a dash, where that tells them apart."""
    bare = [safe(device or "", 48).replace("NVIDIA ", "") for device, _ in devices]
    full = [f"{name}, {safe(dtype, 20)}" for name, (_, dtype) in zip(bare, devices, strict=True)]
    shorts = [name.split("-")[0] for name in bare]
    return next(names for names in (shorts, bare, full) if len(set(names)) == len(devices) or names is full)


def kv_held(report: Report) -> dict[str, Any] | None:
    """Return the stacked area of KV bytes held over the run, visual tokens at the bottom."""
    if not report.kv.held:
        return None
    most = max(point.visual_bytes + point.other_bytes for point in report.kv.held)
    capacity = report.kv.capacity_bytes
    if capacity is not None and capacity > _ROOM * most:
        capacity = None  # a line this far up would flatten the picture; the text beside it names the capacity
    top = 1.15 * max(most, capacity or 0, 1)
    unit, scale = next(
        (
            (unit, scale)
            for unit, scale in (("GiB", BYTES_PER_GIB), ("MiB", BYTES_PER_MIB), ("KiB", BYTES_PER_KIB))
            if most >= scale
        ),
        ("B", 1),
    )
    longest = max(point.seconds for point in report.kv.held)
    time_unit, seconds = ("min", 60) if longest >= 300 else ("s", 1)
    rows = [
        {"t": point.seconds / seconds, "held": amount / scale, "kind": kind, "layer": layer}
        for point in report.kv.held
        for layer, kind, amount in (
            (0, "visual tokens", point.visual_bytes),
            (1, "all other tokens", point.other_bytes),
        )
    ]
    area = (
        alt.Chart(_data(rows))
        .mark_area(interpolate="step-after", opacity=0.95)
        .encode(
            x=alt.X("t:Q", title=f"since the first arrival, {time_unit}").axis(grid=False, tickCount=6, format=",~f"),
            y=alt.Y("held:Q", title=f"KV held, {unit}", stack="zero").axis(tickCount=5, format=",~f").scale(
                domainMax=top / scale
            ),
            color=alt.Color("kind:N").scale(domain=list(_KV_COLOURS), range=list(_KV_COLOURS.values())),
            order=alt.Order("layer:Q"),
            tooltip=[
                _field("kind", "KV of"),
                alt.Tooltip("t:Q", title=time_unit, format=".4~g"),
                alt.Tooltip("held:Q", title=unit, format=".4~g"),
            ],
        )
    )  # fmt: skip
    layers: list[Any] = [area]
    if capacity is not None:
        label = f"capacity {plain(capacity / scale)} {unit}"
        rule = alt.Chart(_data([{"held": capacity / scale, "label": label}]))
        layers += [
            rule.mark_rule(strokeDash=[5, 4], strokeWidth=1.4).encode(
                y="held:Q", tooltip=[_field("label", "KV cache")]
            ),
            rule.mark_text(align="left", dx=6, dy=-8).encode(x=alt.value(0), y="held:Q", text="label:N"),
        ]
    chart = alt.layer(*layers).properties(
        width="container", height=230, description="KV bytes held over the run"
    )
    return _document(chart)


def _data(rows: list[dict[str, Any]]) -> alt.Data:
    return alt.Data(values=rows)  # type: ignore[no-untyped-call]


def _document(chart: Any) -> dict[str, Any]:
    document: dict[str, Any] = chart.to_dict()
    # Altair's own look is left out: the page passes ``config`` for its colour scheme.
    document.pop("config", None)
    return document


def _field(name: str, title: str | None = None) -> alt.Tooltip:
    return alt.Tooltip(f"{name}:N", title=title or name)


def _colour(phases: list[str]) -> alt.Color:
    colours = [COLOURS.get(phase, COLOURS[names.UNEXPLAINED]) for phase in phases]
    return alt.Color("phase:N").scale(domain=phases, range=colours)


def _in_order(phases: Iterable[str]) -> list[str]:
    """Return the phases once each: known ones in their order, then the rest, the unexplained last."""
    found = list(dict.fromkeys(phases))
    order = list(COLOURS)
    return sorted(
        found,
        key=lambda phase: (
            phase == names.UNEXPLAINED,
            order.index(phase) if phase in COLOURS else len(order),
        ),
    )


def _within(value: float) -> float:
    return min(max(value, _LIMITS[0]), _LIMITS[1])


def _decades(values: list[float]) -> tuple[float, float]:
    low, high = math.floor(math.log10(min(values) / 1.5)), math.ceil(math.log10(max(values) * 1.5))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _powers(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    step = 1 + (last - first) // 8
    return [10.0**exponent for exponent in range(first, last + 1, step)]
